"""What ranks exchange."""

import pytest
import torch
from processes import in_ranks

from expander_sae.distributed import ALONE
from expander_sae.records import ExpanderSaeError


def exchanged(ranks):
    own = float(ranks.rank)
    one, matrix = torch.tensor(own), torch.full((2, 2), own + 1)
    ranks.add_up(one, matrix.T)
    flags = torch.zeros(4, dtype=torch.bool)
    flags[ranks.rank] = True
    untouched = torch.tensor([own])
    total = ranks.total(untouched)
    sent = ranks.bytes
    try:
        ranks.agree("word", "the same" if ranks.rank < 2 else "another")
        refused = ""
    except ExpanderSaeError as error:
        refused = str(error)
    ranks.agree("word", "the same")
    ranks.wait()
    return {
        "one": float(one),
        "matrix": matrix.tolist(),
        "flags": ranks.anywhere(flags).tolist(),
        "any": (ranks.any(ranks.rank == 2), ranks.any(False)),
        "total": (float(total), float(untouched)),
        "joined": ranks.joined(torch.arange(ranks.rank)[:, None]).tolist(),
        "share": ranks.share(torch.arange(7)).tolist(),
        "everyone": ranks.everyone(ranks.rank),
        "refused": refused,
        "sent": sent,
        "first": ranks.first,
    }


def test_three_ranks_exchange_what_they_say():
    found = in_ranks(3, exchanged)
    for rank, one in enumerate(found):
        assert one["first"] == (rank == 0)
        assert one["one"] == 3.0
        assert one["matrix"] == [[6.0, 6.0], [6.0, 6.0]]
        assert one["flags"] == [1, 1, 1, 0]
        assert one["any"] == (True, False)
        assert one["total"] == (3.0, float(rank))
        assert one["joined"] == [[0], [0], [1]]
        assert one["everyone"] == [0, 1, 2]
        assert "same word on every rank; got another one on rank 2" in one["refused"]
        assert one["sent"] == 4 * 5 + 4
    assert [one["share"] for one in found] == [[0, 1, 2], [3, 4], [5, 6]]


def test_alone_nothing_is_exchanged():
    x = torch.arange(3.0)
    ALONE.add_up(x)
    assert ALONE.total(x) is x
    assert ALONE.joined(x) is x
    assert ALONE.share(x) is x
    assert ALONE.anywhere(x) is x
    assert (ALONE.any(True), ALONE.any(False), ALONE.everyone("a")) == (True, False, ["a"])
    assert (ALONE.first, ALONE.size, ALONE.alone, ALONE.bytes) == (True, 1, True, 0)
    assert x.tolist() == [0, 1, 2]


def failing(ranks):
    raise ValueError("on purpose")


def test_an_exception_on_a_rank_is_seen():
    with pytest.raises(AssertionError, match="on purpose"):
        in_ranks(2, failing)
