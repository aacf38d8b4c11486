"""A number in prose that names its record is what the record says."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import prose  # noqa: E402
import recorded  # noqa: E402

RESULTS = recorded.DOCS / "results"
NAMED = "<!-- k32; expander-d7; fvu -->"


@pytest.mark.parametrize(
    ("written", "right"),
    [
        (f".999{NAMED} is left", f".259{NAMED} is left"),
        (f"0.1{NAMED}", f".3{NAMED}"),
        (f"99%{NAMED}, 99.9%{NAMED}", f"26%{NAMED}, 25.9%{NAMED}"),
        (f".2 ± .001{NAMED}", f".3 ± .000{NAMED}"),
        (
            "9<!-- k32; dense; learned values over k32; expander-d7; learned values --> times",
            "81<!-- k32; dense; learned values over k32; expander-d7; learned values --> times",
        ),
        (
            ".1<!-- k32; dense; fvu less k32; expander-d7; fvu -->",
            "-.0<!-- k32; dense; fvu less k32; expander-d7; fvu -->",
        ),
        ("1,2<!-- k32; dense; learned values -->", "2,654,784<!-- k32; dense; learned values -->"),
        (
            ".1<!-- k32-steps; dense; fvu; at=1,400,000 --> and .1<!-- k32-amortisation; dense; fvu; read by=omp -->",
            ".2<!-- k32-steps; dense; fvu; at=1,400,000 --> and .2<!-- k32-amortisation; dense; fvu; read by=omp -->",
        ),
        ("a comment <!-- k32; expander-d7; fvu --> without a number", None),
    ],
)
def test_a_number_is_written_as_its_record_has_it(written, right):
    assert prose.with_numbers(written, RESULTS) == (written if right is None else right)


@pytest.mark.parametrize(
    "address",
    ["k33; expander-d7; fvu", "k32; expander-d8; fvu", "k32; expander-d7; beauty", "k32-steps; dense; fvu; at=7"],
)
def test_an_address_without_a_number_is_an_error(address):
    with pytest.raises(SystemExit, match="expected"):
        prose.with_numbers(f"1<!-- {address} -->", RESULTS)


def test_the_readme_and_the_documents_name_their_numbers():
    """Those of the README, too, are what the records say."""
    readme = recorded.DOCS.parent / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines()
    assert [prose.with_numbers(line, RESULTS) for line in lines] == lines
    texts = [path.read_text(encoding="utf-8") for path in (recorded.DOCS / "results").glob("*.md")]
    assert sum(len(prose.NAMED.findall(text)) for text in texts) > 100
