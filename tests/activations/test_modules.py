import pytest
import torch
from safetensors.torch import load_file
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl
from transformers import BertConfig, BertModel, ViTConfig, ViTModel
from typer.testing import CliRunner

from expander_sae.activations import harvest, harvest_items, load_language_model, tokenize
from expander_sae.activations.modules import changed_output, output_of
from expander_sae.cli.main import app
from expander_sae.evaluation import evaluate
from expander_sae.interop.hooks import read_codes
from expander_sae.pursuit import Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae, load_sae
from expander_sae.training import Inputs, StoreBatches, TrainConfig, train

SETTINGS = {"context": 32, "heldout_share": 0.3, "progress": False}
TRAIN = TrainConfig(
    tokens=20_000, batch_size=256, learning_rate=1e-2, inputs=Inputs(statistics_tokens=4096), move_supports=None
)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return load_language_model(make_tiny_model(tmp_path_factory.mktemp("model") / "m"), dtype="float32")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("text") / "text.jsonl", make_documents(30))


@pytest.mark.parametrize(
    ("module", "width"),
    [("model.layers.1.mlp", D_IN), ("model.layers.1.self_attn", D_IN), ("model.layers.0.mlp.up_proj", 2 * D_IN)],
)
def test_stored_activations_are_the_module_s_output(lm, text, tmp_path, module, width):
    store = harvest(lm, text, tmp_path / "h", module=module, **SETTINGS)
    assert store.d_in == width
    assert store.module == module
    tokens = store.tokens("heldout")
    seen = []
    with torch.no_grad(), changed_output(lm.model, module, seen.append):
        lm.model(input_ids=tokens.input_ids.long(), attention_mask=tokens.attention_mask)
    stored = torch.cat(list(store.blocks("heldout")))
    torch.testing.assert_close(stored.float(), seen[0][~tokens.special], rtol=2e-3, atol=2e-3)
    with pytest.raises(ExpanderSaeError, match="output of"):
        _ = store.layer
    again = harvest(lm, text, tmp_path / "h", module=module, **SETTINGS)  # nothing to do
    assert again.manifest == store.manifest
    with pytest.raises(ExpanderSaeError, match="other settings"):
        harvest(lm, text, tmp_path / "h", layer=1, **SETTINGS)


def test_the_cross_entropy_is_spliced_at_the_module(lm, text, tmp_path):
    module = "model.layers.1.mlp"
    store = harvest(lm, text, tmp_path / "h", module=module, **SETTINGS)
    saes = {"sae": ExpanderSae(d_in=D_IN, n_latents=128, degree=8, k=8, reading=Stages(2))}
    train(saes, StoreBatches(store, TRAIN), TRAIN, folder=tmp_path / "saes", progress=False)

    class Perfect(ExpanderSae):
        def decode(self, codes):
            return self.seen

        def encode(self, x, *, reading=None):
            self.seen = x
            return super().encode(x, reading=reading)

    saes["perfect"] = Perfect(d_in=D_IN, n_latents=128, degree=8, k=8)
    record = evaluate(saes, store, language_model=lm, ce_tokens=500, progress=False)
    assert record["perfect"].delta_ce == pytest.approx(0.0, abs=1e-6)
    assert record["sae"].layer is None
    assert record["sae"].module == module
    assert 0 < record["sae"].fvu < 0.9
    # By hand: zeroing the module's output at every ordinary token.
    from expander_sae.evaluation.cross_entropy import spread_blocks

    blocks = spread_blocks(store.tokens("heldout"), 500)
    ids = blocks.input_ids.long()
    limit = 5 * torch.cat([x.float().norm(dim=1) for x in store.blocks("heldout")]).median()

    def zero(x):
        touched = ~blocks.special & (x.norm(dim=-1) <= limit)
        return torch.where(touched[..., None], 0.0, x)

    with torch.no_grad(), changed_output(lm.model, module, zero):
        logits = lm.model(input_ids=ids, attention_mask=blocks.attention_mask).logits
    log_p = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    real = blocks.attention_mask[:, 1:].bool()
    assert record["sae"].ce_zero == pytest.approx(float(-log_p[real].double().mean()), rel=1e-4)


def test_from_the_command_line(lm, text, tmp_path):
    model = make_tiny_model(tmp_path / "m")

    def run(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--quiet"])
        if done.exception is not None:
            raise done.exception

    module = ("--module", "model.layers.1.mlp")
    run("harvest", "--model", model, "--text", text, "--out", tmp_path / "acts", "--context", 64, *module)
    small = ("--degree", 8, "--k", 4, "--tokens", 5000, "--batch-size", 256)
    run("train", tmp_path / "acts", "--out", tmp_path / "saes", *small)
    sae = tmp_path / "saes" / "expander-d8"
    run("eval", tmp_path / "acts", sae, "--model", model, "--ce-tokens", 200)
    codes = tmp_path / "codes.safetensors"
    some = ("--max-tokens", 300, "--context", 64, "--compute-dtype", "float32")
    run("encode", sae, "--text", text, "--model", model, "--out", codes, *some)
    written = load_file(codes)
    loaded = load_language_model(model, dtype="float32")
    with read_codes(loaded.model, "model.layers.1.mlp", load_sae(sae)) as seen:
        first = written["block"] == 0
        ids = torch.cat([torch.tensor([0]), written["token_id"][first]])  # the first position was not written
        tokens = tokenize([str(text)], loaded.tokenizer, context=64, heldout_share=0.0).blocks["train"]
        assert torch.equal(tokens.input_ids[0, 1 : len(ids)], ids[1:].int())
        loaded.model(input_ids=tokens.input_ids[:1].long())
    assert torch.equal(seen[0].indices[0, 1 : len(ids)].int(), written["indices"][first])


def test_mistakes(lm, text, tmp_path):
    for options, says in (
        ({"module": "model.layers.9.mlp"}, r"model\.layers\.\d"),
        ({"module": "model.layers.1.mlp", "layer": 1}, "a layer or a module"),
        ({"module": "model.rotary_emb"}, "vector for each"),
    ):
        with pytest.raises(ExpanderSaeError, match=says):
            harvest(lm, text, tmp_path / "h", **SETTINGS, **options)


def images(batches=6):
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(8, 3, 16, 16, generator=generator)} for _ in range(batches)]


def tiny_vit():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=16,
            patch_size=4,
        )
        return ViTModel(config).eval()


def class_token(hidden):
    found = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    found[:, 0] = True
    return found


def block_name(model):
    return next(name for name, module in model.named_modules() if name.endswith(".1") and hasattr(module, "attention"))


def test_patches_of_a_vision_transformer_train_an_sae(tmp_path):
    vit = tiny_vit()
    module = block_name(vit)
    options = {"module": module, "name": "tiny-vit", "special": class_token, "shard_tokens": 100}
    store = harvest_items(vit, images(), tmp_path / "acts", heldout_share=0.25, **options)
    assert store.d_in == 32
    counts = {split: store.n_tokens(split) for split in ("train", "heldout")}
    assert sum(counts.values()) == 48 * 16
    assert store.n_tokens("train", keep_special_tokens=True) == counts["train"] * 17 // 16
    assert len(store.shards("train")) > 1
    held = store.tokens("heldout")
    numbers = held.input_ids[:, 0].long()
    everything = torch.cat([output_of(vit, module, **batch) for batch in images()])
    stored = torch.cat(list(store.blocks("heldout")))
    torch.testing.assert_close(stored.float(), everything[numbers][:, 1:].reshape(-1, 32), rtol=2e-3, atol=2e-3)
    saes = {"sae": ExpanderSae(d_in=32, n_latents=128, degree=8, k=8, reading=Stages(2))}
    train(saes, StoreBatches(store, TRAIN), TRAIN, folder=tmp_path / "saes", progress=False)
    record = evaluate(saes, store, progress=False)["sae"]
    assert 0 < record.fvu < 0.8
    assert record.module == module
    with read_codes(vit, module, load_sae(tmp_path / "saes" / "sae")) as seen:
        vit(**images(1)[0])
    assert seen[0].indices.shape == (8, 17, 8)
    with pytest.raises(ExpanderSaeError, match="whole items"):
        evaluate(saes, store, language_model=object(), progress=False)


def test_sentence_embeddings_are_one_activation_each(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        bert = BertModel(BertConfig(vocab_size=50, **sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(0, 50, (10, 7), generator=generator),
            "attention_mask": (torch.arange(7) < torch.randint(3, 8, (10, 1), generator=generator)).long(),
        }
        for _ in range(5)
    ]
    pooled = harvest_items(bert, batches, tmp_path / "pooled", module="pooler", name="tiny-bert", heldout_share=0.3)
    assert sum(pooled.n_tokens(split) for split in ("train", "heldout")) == 50
    everything = torch.cat([output_of(bert, "pooler", **batch) for batch in batches])
    numbers = pooled.tokens("train").input_ids[:, 0].long()
    torch.testing.assert_close(
        torch.cat(list(pooled.blocks("train"))).float(), everything[numbers], rtol=2e-3, atol=2e-3
    )
    by_token = harvest_items(bert, batches, tmp_path / "tokens", module="encoder.layer.0", name="tiny-bert")
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert sum(by_token.n_tokens(split) for split in ("train", "heldout")) == real


def test_items_that_cannot_be_harvested(tmp_path):
    vit = tiny_vit()
    module = block_name(vit)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, batches, options, says in (
        ("full", images(), {}, "empty folder"),
        ("a", images(1)[:0], {}, "both splits"),
        ("b", images(), {"module": "nowhere"}, "got 'nowhere'"),
        ("c", images(), {"dtype": "float64"}, "stored dtype"),
        ("d", images(), {"heldout_share": 1.0}, "held-out share"),
        ("e", images(), {"special": lambda hidden: torch.zeros(2, 2, dtype=torch.bool)}, "`special`"),
        ("f", [{"pixel_values": torch.full((4, 3, 16, 16), torch.nan)}], {}, "finite"),
    ):
        with pytest.raises(ExpanderSaeError, match=says):
            harvest_items(vit, batches, tmp_path / out, **{"module": module, "name": "tiny-vit", **options})
