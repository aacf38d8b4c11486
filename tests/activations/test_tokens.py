import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_documents, make_tiny_tokenizer, write_jsonl

from expander_sae.activations import TokenBlocks, read_documents, tokenize
from expander_sae.activations.documents import split_rule
from expander_sae.activations.tokens import special_ids
from expander_sae.records import ExpanderSaeError

DOCUMENTS = make_documents(8)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tiny_tokenizer()


def test_every_kind_of_source_gives_the_same_documents(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number}.txt").write_text(text)
    jsonl = write_jsonl(tmp_path / "text.jsonl", DOCUMENTS)
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), tmp_path / "text.parquet")
    dataset = datasets.Dataset.from_dict({"text": DOCUMENTS})
    dataset.save_to_disk(str(tmp_path / "dataset"))
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(tmp_path / "datasets"))
    halves = [
        write_jsonl(tmp_path / "a.jsonl", DOCUMENTS[:3]),
        write_jsonl(tmp_path / "b.jsonl", DOCUMENTS[3:]),
    ]
    for source in (folder, jsonl, tmp_path / "text.parquet", tmp_path / "dataset", tmp_path / "datasets", halves):
        assert list(read_documents(source)) == DOCUMENTS, source
    assert list(read_documents(folder / "3.txt")) == [DOCUMENTS[3]]


def test_another_field_and_empty_documents(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n\n" for text in ["one", "  ", "two"]))
    assert list(read_documents(path, field="body")) == ["one", "two"]
    with pytest.raises(ExpanderSaeError, match=r"'text'.*line 1.*body"):
        list(read_documents(path))


@given(
    st.lists(st.text(min_size=1), min_size=2, max_size=30, unique=True),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_the_split_puts_no_document_on_both_sides_and_leaves_no_side_empty(documents, share, seed):
    side = split_rule(documents, heldout_share=share, seed=seed)
    sides = {text: side(text) for text in documents}
    assert set(sides.values()) == {"train", "heldout"}
    again = split_rule([*documents, *reversed(documents)], heldout_share=share, seed=seed)
    assert {text: again(text) for text in documents} == sides


def test_the_split_follows_share_and_seed():
    documents = [f"document {i}" for i in range(4000)]
    side = split_rule(documents, heldout_share=0.25, seed=1)
    held = [side(text) == "heldout" for text in documents]
    assert 0.22 < sum(held) / 4000 < 0.28
    other = split_rule(documents, heldout_share=0.25, seed=2)
    assert [other(text) == "heldout" for text in documents] != held


def test_blocks_hold_the_documents_and_tell_the_truth(tmp_path, tokenizer):
    source = write_jsonl(tmp_path / "t.jsonl", DOCUMENTS)
    found = tokenize(source, tokenizer, context=32, heldout_share=0.3, seed=0)
    assert sum(found.n_documents.values()) == len(DOCUMENTS)
    texts = []
    for blocks in found.blocks.values():
        assert blocks.input_ids.dtype == blocks.lengths.dtype == torch.int32
        assert blocks.input_ids.shape == blocks.special.shape == (len(blocks), 32)
        assert blocks.special[:, 0].all()
        assert torch.equal(blocks.attention_mask.sum(1), blocks.lengths.long())
        assert blocks.special[blocks.attention_mask == 0].all()
        assert blocks.n_ordinary_tokens == blocks.n_tokens - len(blocks)
        assert int(blocks.lengths.min()) >= 16
        texts += [tokenizer.decode(ids[:n]) for ids, n in zip(blocks.input_ids, blocks.lengths, strict=True)]
    joined = " ".join(DOCUMENTS)
    assert all(text in joined for text in texts)  # no block reaches over two documents
    train, heldout = (" ".join(found.blocks[split].input_ids[0, :8].tolist().__repr__()) for split in found.blocks)
    assert train != heldout


def test_special_tokens_in_the_text_are_marked(tmp_path, tokenizer):
    text = "The quiet river holds the old stone and <|end|> the bird finds the map " * 3
    source = write_jsonl(tmp_path / "t.jsonl", [text])
    blocks = tokenize(source, tokenizer, context=64, heldout_share=0).blocks["train"]
    real = blocks.attention_mask.bool()
    marked = blocks.special & real
    marked[:, 0] = False
    assert int(marked.sum()) == int(((blocks.input_ids == 0) & real).sum()) > 0
    assert special_ids(tokenizer) == [0, 1]


@pytest.mark.parametrize(
    ("by_default", "asked", "expected"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
def test_bos_begins_every_block_by_default_or_on_demand(tmp_path, by_default, asked, expected):
    tokenizer = make_tiny_tokenizer(adds_bos=by_default)
    source = write_jsonl(tmp_path / "t.jsonl", DOCUMENTS)
    found = tokenize(source, tokenizer, context=32, heldout_share=0, bos=asked)
    assert found.bos is expected
    ids = found.blocks["train"].input_ids
    assert bool((ids[:, 0] == 1).all()) is expected
    assert not (ids[:, 1:] == 1).any() or not expected


def test_limits(tmp_path, tokenizer):
    source = write_jsonl(tmp_path / "t.jsonl", make_documents(40))
    found = tokenize(source, tokenizer, context=32, heldout_share=0.25, max_tokens=1000).blocks
    assert 1000 - 16 < found["train"].n_tokens <= 1000
    assert 333 - 16 < found["heldout"].n_tokens <= 333
    spread = tokenize(source, tokenizer, context=32, heldout_share=0.25, max_document_tokens=32)
    assert len(spread.blocks["train"]) == spread.n_documents["train"]
    assert spread.n_documents["train"] + spread.n_documents["heldout"] == 40


def test_short_documents_are_left_out_from_a_length_on(tmp_path, tokenizer):
    words = DOCUMENTS[0].split()
    texts = [" ".join(words[start : start + 6]) for start in range(0, 60, 6)]
    path = write_jsonl(tmp_path / "short.jsonl", texts)
    with pytest.raises(ExpanderSaeError, match="one document of 16 tokens"):
        tokenize(path, tokenizer, context=128)
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    kept = tokenize(path, tokenizer, context=128, min_piece=4, heldout_share=0.0).blocks["train"]
    assert min(lengths) >= 4
    assert sorted(kept.lengths.tolist()) == sorted(lengths)
    with pytest.raises(ExpanderSaeError, match="at least 1 token"):
        tokenize(path, tokenizer, context=128, min_piece=0)


def test_token_blocks_survive_the_disk(tmp_path, tokenizer):
    source = write_jsonl(tmp_path / "t.jsonl", DOCUMENTS)
    blocks = tokenize(source, tokenizer, context=32, heldout_share=0).blocks["train"]
    blocks.save(tmp_path / "b.safetensors")
    again = TokenBlocks.load(tmp_path / "b.safetensors")
    assert torch.equal(again.input_ids, blocks.input_ids)
    assert torch.equal(again.special, blocks.special)
    assert torch.equal(again.lengths, blocks.lengths)
