"""Text of every kind, settings that do not go together, hubs that are not there: one clear error, or what is right."""

import json
import socket
import threading
import time
import warnings

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from tiny_models import make_documents, make_tiny_model, make_tiny_tokenizer, write_jsonl
from transformers import AutoModelForCausalLM, BloomConfig, GPTNeoConfig, LlamaConfig, OPTConfig

from expander_sae.activations import harvest, harvest_items, hub, load_language_model, read_documents, tokenize
from expander_sae.activations.models import LanguageModel
from expander_sae.activations.positions import check_context, max_positions
from expander_sae.activations.running import input_device, own_run
from expander_sae.evaluation.codes import text_batches
from expander_sae.records import ExpanderSaeError, ExpanderSaeWarning
from expander_sae.records.locks import alone_in

TEXTS = ["one text", None, "another text"]


def as_jsonl(folder, texts):
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder / "t.jsonl"


def as_parquet(folder, texts):
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "t.parquet")
    return folder / "t.parquet"


def as_dataset(folder, texts):
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(folder / "d"))
    return folder / "d"


KINDS = [as_jsonl, as_parquet, as_dataset]


@pytest.mark.parametrize("kind", KINDS)
def test_nulls_are_left_out_and_other_values_named(tmp_path, kind):
    assert list(read_documents(kind(tmp_path, TEXTS))) == ["one text", "another text"]
    (tmp_path / "n").mkdir()
    with pytest.raises(ExpanderSaeError, match=r"(line|row) 1; got a int: 3"):
        list(read_documents(kind(tmp_path / "n", [3, 4])))
    with pytest.raises(ExpanderSaeError, match="'body'"):
        list(read_documents(kind(tmp_path, TEXTS), field="body"))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (r'"a \ud83d b"', "a � b"),
        (r'"\ude00"', "�"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\ud83d\ud83d\ude00"', "�😀"),
    ],
)
def test_lone_surrogates_become_a_sign_that_can_be_written(tmp_path, raw, found):
    (tmp_path / "t.jsonl").write_text(f'{{"text": {raw}}}\n')
    assert list(read_documents(tmp_path / "t.jsonl")) == [found]
    assert len(make_tiny_tokenizer()(found)["input_ids"]) > 0


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.txt", "text".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "UTF-16"),
        ("b.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', "UTF-8"),
        ("c.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "one JSON object a line"),
        ("d.jsonl", b'{"text": "a", "n": ' + b"9" * 10_000 + b"}\n", "one JSON object a line"),
        ("e.jsonl", b"[1]\n", "got a list"),
        ("f.jsonl", b'{"text": {"a": 1}}\n', "line 1; got a dict"),
        ("g.csv", b"text\na\n", "ending in"),
        ("h.parquet", b"", "parquet"),
    ],
)
def test_files_that_are_no_text_are_one_error(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ExpanderSaeError, match=says):
        list(read_documents(tmp_path / name))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "A.TXT", "A.JSONL"])
def test_marks_capitals_long_lines_and_empty_files(tmp_path, name):
    long = "word " * 200_000
    text = json.dumps({"text": long}) + "\n" if "json" in name.lower() else long
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert list(read_documents(tmp_path / name)) == [long] == list(read_documents(tmp_path))
    (tmp_path / name).write_bytes(b"")
    assert list(read_documents(tmp_path / name)) == []


class _Failing:
    def __iter__(self):
        yield {"text": "first"}
        raise ConnectionError("the connection was reset")


def test_a_dataset_that_stops_says_to_go_on(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_options: _Failing())
    documents = read_documents("owner/name")
    assert next(documents) == "first"
    with pytest.raises(
        ExpanderSaeError, match=r"after row 1 got the connection was reset\. Run the same command again"
    ):
        next(documents)


@pytest.mark.parametrize("said", ["<|start|>", "<|start|><|start|>"])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_stands_once(tmp_path, said, adds_bos):
    tokenizer = make_tiny_tokenizer(adds_bos=adds_bos)
    documents = [said + text for text in make_documents(3)]
    # In the middle too, where a block may begin.
    documents[1] = f"{documents[1]}{said}".join(make_documents(2, seed=4))
    found = tokenize(write_jsonl(tmp_path / "t.jsonl", documents), tokenizer, context=24, heldout_share=0)
    ids, bos = found.blocks["train"].input_ids, tokenizer.bos_token_id
    assert bool((ids[:, 0] == bos).all()) is adds_bos
    assert not adds_bos or not bool((ids[:, 1] == bos).any())
    assert bool((ids == bos).any())


def made(config):
    return AutoModelForCausalLM.from_config(config).eval()


SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
GPT_NEO = {"attention_types": [[["global"], 2]], "num_layers": 2, "num_heads": 2, "hidden_size": 16, "vocab_size": 50}
LLAMA = LlamaConfig(**SIZES, intermediate_size=16, max_position_embeddings=48)
ENDING = [
    GPTNeoConfig(**GPT_NEO, max_position_embeddings=48),
    OPTConfig(**SIZES, ffn_dim=16, word_embed_proj_dim=16, max_position_embeddings=48),
]


@pytest.mark.parametrize("config", ENDING, ids=lambda config: config.model_type)
def test_a_context_past_the_positions_is_an_error_with_both_numbers(config):
    model = made(config)
    assert max_positions(model) == (48, True)
    check_context(model, 48)
    with pytest.raises(ExpanderSaeError, match=r"at most 48 tokens; got blocks of 64 tokens"):
        check_context(model, 64)


def test_rotary_positions_go_on_with_a_warning_and_alibi_without_one():
    with pytest.warns(ExpanderSaeWarning, match="64 tokens, but LlamaForCausalLM has 48 positions"):
        check_context(made(LLAMA), 64)
    bloom = made(BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2, seq_length=48))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_context(bloom, 64)


def test_the_context_is_compared_before_any_work(tmp_path):
    tokenizer = make_tiny_tokenizer()
    text = write_jsonl(tmp_path / "t.jsonl", make_documents(4))
    lm = LanguageModel(
        made(GPTNeoConfig(**{**GPT_NEO, "vocab_size": 420}, max_position_embeddings=48)), tokenizer, "m", "r"
    )
    with pytest.raises(ExpanderSaeError, match="48 positions"):
        harvest(lm, tmp_path / "nothing.jsonl", tmp_path / "h", context=64, progress=False)
    assert not (tmp_path / "h").exists()
    blocks = tokenize(text, tokenizer, context=64, heldout_share=0).blocks["train"]
    with pytest.raises(ExpanderSaeError, match="48 positions"):
        next(text_batches(blocks, lm, 0))


def test_one_harvest_at_a_time_in_a_folder(tmp_path):
    folder = make_tiny_model(tmp_path / "m")
    text = write_jsonl(tmp_path / "t.jsonl", make_documents(6))
    items = torch.nn.Sequential(torch.nn.Linear(4, 8))
    batches = [{"input": torch.randn(8, 4)}]
    with alone_in(tmp_path / "h", "harvesting", "harvests"):
        with pytest.raises(ExpanderSaeError, match="another process harvests"):
            harvest(folder, text, tmp_path / "h", context=16, progress=False)
        with pytest.raises(ExpanderSaeError, match="another process harvests"):
            harvest_items(items, batches, tmp_path / "h", module="0", name="x")
    harvest(folder, text, tmp_path / "h", context=16, max_tokens=64, progress=False)  # the lock is gone
    held = []

    def hold():
        with alone_in(tmp_path / "i", "harvesting", "harvests"):
            held.append(1)
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    while not held:
        time.sleep(0.01)
    with pytest.raises(ExpanderSaeError, match="another process"), alone_in(tmp_path / "i", "harvesting", "harvests"):
        pass
    thread.join()


def test_code_of_a_model_is_never_run_nor_asked_about(tmp_path, monkeypatch):
    folder = make_tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ExpanderSaeError, match="code of its own, which is not run"):
        load_language_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_hub_that_does_not_answer_is_noticed_in_seconds(monkeypatch):
    import huggingface_hub.constants as constants

    assert hub.hub_is_off()  # the tests forbid it
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert not hub.hub_is_off()
    assert hub.hub_is_off()
    started = time.monotonic()
    with pytest.raises(ExpanderSaeError, match="cannot be loaded"):
        load_language_model("surely-no/such-model")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(ExpanderSaeError, match=r"The hub cannot|forbidden"):
        list(read_documents("surely-no/such-dataset"))
    assert time.monotonic() - started < 5


class _Hook:
    execution_device = "cpu"


@pytest.mark.parametrize("way", ["hook on the model", "hook on the embeddings", "device map", "some are there"])
def test_a_model_whose_weights_are_elsewhere_has_a_real_device(way):
    with torch.device("meta"):
        model = made(LLAMA)
    if way == "hook on the model":
        model._hf_hook = _Hook()
    elif way == "hook on the embeddings":
        model.get_input_embeddings()._hf_hook = _Hook()
    elif way == "device map":
        model.hf_device_map = {"model.embed_tokens": "disk", "model.layers": "cpu"}
    else:
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(50, 16))
    assert input_device(model) == torch.device("cpu")


def test_dropout_gradients_and_autocast_are_out_of_our_runs(tmp_path):
    from transformers import GPT2Config

    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=420, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    model.train()
    model.transformer.h[0].eval()  # a mixture of modes comes back as it was
    modes = [module.training for module in model.modules()]
    lm = LanguageModel(model, make_tiny_tokenizer(), "m", "r")
    text = write_jsonl(tmp_path / "t.jsonl", make_documents(6))
    settings = {"layer": 1, "context": 16, "max_tokens": 64, "progress": False}
    one = harvest(lm, text, tmp_path / "a", **settings)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        two = harvest(lm, text, tmp_path / "b", **settings)
        three = harvest(lm, text, tmp_path / "c", **settings | {"layer": None, "module": "transformer.h.1"})
    x = [np.concatenate([part.numpy() for part in store.blocks("train")]) for store in (one, two, three)]
    assert (x[0] == x[1]).all()
    assert (x[0] == x[2]).all()
    assert modes == [module.training for module in model.modules()]
    with pytest.raises(RuntimeError), own_run(model):
        raise RuntimeError
    assert modes == [module.training for module in model.modules()]
