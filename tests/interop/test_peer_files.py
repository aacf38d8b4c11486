import json
import pickle

import peer_files
import pytest
import torch
from peer_files import D_IN, N_LATENTS, K, random_weights, topk
from safetensors.torch import load_file, save_file

from expander_sae.evaluation import evaluate
from expander_sae.interop import ThresholdSae, detect_format, read_sae, write_sae
from expander_sae.interop.openai import layer_norm
from expander_sae.pursuit import Encoder, Stages, parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae

X = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(7))


def check(sae, acts, decoder, b_dec, x=X):
    """The SAE gives these activations [batch, n] (in columns of unit length) and their reconstruction."""
    codes = sae.encode(x)
    dense = torch.zeros_like(acts).scatter_add_(1, codes.indices, codes.values)
    torch.testing.assert_close(dense, acts * decoder.norm(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x), acts @ decoder + b_dec, rtol=1e-5, atol=1e-5)
    for row in codes.indices:
        assert len(row.unique()) == len(row)


@pytest.mark.parametrize("old", [False, True], ids=["version 6", "older"])
def test_saelens_topk(tmp_path, old):
    weights = encoder, decoder, b_enc, b_dec = random_weights()
    if old:
        peer_files.saelens(tmp_path, weights, "standard", activation_fn_str="topk", activation_fn_kwargs={"k": K})
    else:
        peer_files.saelens(tmp_path, weights, "topk", k=K, rescale_acts_by_decoder_norm=False)
    sae = read_sae(tmp_path)
    assert isinstance(sae, DenseTopKSae)
    check(sae, topk((X - b_dec) @ encoder.T + b_enc, K), decoder, b_dec)
    assert sae.metadata["activations"] == {"model_id": "gpt2-small", "layer": 8}


def test_saelens_topk_over_uneven_columns(tmp_path):
    weights = encoder, decoder, b_enc, b_dec = random_weights(unit=False)
    norms, pre = decoder.norm(dim=1), (X - b_dec) @ encoder.T + b_enc
    rescaled = peer_files.saelens(tmp_path / "rescaled", weights, "topk", k=K, rescale_acts_by_decoder_norm=True)
    plain = peer_files.saelens(tmp_path / "plain", weights, "topk", k=K, rescale_acts_by_decoder_norm=False)
    # Rescaled, the codes multiply columns of unit length: they are those of the columns as they are, over the norm.
    sae = read_sae(rescaled)
    assert isinstance(sae, DenseTopKSae)
    check(sae, topk(pre * norms, K) / norms, decoder, b_dec)
    sae = read_sae(plain)
    assert isinstance(sae, ThresholdSae)
    check(sae, topk(pre, K), decoder, b_dec)
    assert not torch.equal(topk(pre, K) != 0, topk(pre * norms, K) != 0)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "batchtopk"])
def test_saelens_thresholds(tmp_path, architecture, subtract):
    weights = encoder, decoder, b_enc, b_dec = random_weights(unit=False)
    threshold = torch.rand(N_LATENTS, generator=torch.Generator().manual_seed(3)) - 0.1
    extra = {"jumprelu": {"threshold": threshold}, "batchtopk": {"topk_threshold": torch.tensor(0.7)}}
    config = {"k": 5.5, "rescale_acts_by_decoder_norm": True} if architecture == "batchtopk" else {}
    peer_files.saelens(
        tmp_path, weights, architecture, extra=extra.get(architecture), apply_b_dec_to_input=subtract, **config
    )
    sae = read_sae(tmp_path)
    pre = (X - b_dec * subtract) @ encoder.T + b_enc
    gate = {"standard": pre > 0, "jumprelu": pre > threshold, "batchtopk": pre * decoder.norm(dim=1) > 0.7}
    assert isinstance(sae, ThresholdSae)
    check(sae, pre.relu() * gate[architecture], decoder, b_dec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sparsify(tmp_path, dtype):
    weights = [part.to(dtype).float() for part in random_weights()]
    encoder, decoder, b_enc, b_dec = weights
    peer_files.sparsify(tmp_path / "layers.5", weights, dtype=dtype)
    sae = read_sae(tmp_path / "layers.5")
    assert isinstance(sae, DenseTopKSae)
    assert sae.metadata["imported"] == {"format": "sparsify", "hookpoint": "layers.5"}
    pre = (X - b_dec) @ encoder.T + b_enc
    # Rounded columns are not quite unit: where two latents are that close, either may be chosen.
    second, third = torch.topk(pre, K + 1, dim=1).values[:, K - 1 :].unbind(1)
    clear = second - third > 0.05
    assert clear.sum() > 10
    check(sae, topk(pre, K)[clear], decoder, b_dec, X[clear])


def test_dictionary_learning(tmp_path):
    weights = encoder, decoder, b_enc, b_dec = random_weights()
    threshold = torch.rand(N_LATENTS, generator=torch.Generator().manual_seed(3))
    k, one = torch.tensor(K, dtype=torch.int), torch.tensor(0.4)
    matrices = {"W_enc": encoder.T.contiguous(), "W_dec": decoder, "b_enc": b_enc, "b_dec": b_dec}
    states = {
        "AutoEncoderTopK": peer_files.linear_state(weights, b_dec=b_dec, k=k, threshold=torch.tensor(0.2)),
        "BatchTopKSAE": peer_files.linear_state(weights, b_dec=b_dec, k=k, threshold=one),
        "MatryoshkaBatchTopKSAE": matrices | {"k": k, "threshold": one, "group_sizes": torch.tensor([30, 10])},
        "AutoEncoder": peer_files.linear_state(weights, bias=b_dec),
        "AutoEncoderNew": peer_files.linear_state(weights, **{"decoder.bias": b_dec}),
        "JumpReluAutoEncoder": matrices | {"threshold": threshold},
    }
    pre, raw = (X - b_dec) @ encoder.T + b_enc, X @ encoder.T + b_enc
    acts = {
        "AutoEncoderTopK": topk(pre, K),
        "BatchTopKSAE": pre.relu() * (pre > 0.4),
        "MatryoshkaBatchTopKSAE": pre.relu() * (pre > 0.4),
        "AutoEncoder": pre.relu(),
        "AutoEncoderNew": raw.relu(),
        "JumpReluAutoEncoder": raw.relu() * (raw > threshold),
    }
    for kind, state in states.items():
        (tmp_path / kind).mkdir()
        folder = peer_files.dictionary_learning(tmp_path / kind, state, kind)
        sae = read_sae(folder)
        check(sae, acts[kind], decoder, b_dec)
        assert sae.metadata["imported"]["dict_class"] == kind
        if kind not in ("AutoEncoderTopK", "BatchTopKSAE"):  # these two look the same
            (folder / "config.json").unlink()
            check(read_sae(folder / "ae.pt"), acts[kind], decoder, b_dec)
    (tmp_path / "AutoEncoderTopK" / "config.json").unlink()
    with pytest.raises(ExpanderSaeError, match="TopK and BatchTopK"):
        read_sae(tmp_path / "AutoEncoderTopK")


def test_openai(tmp_path):
    weights = encoder, decoder, b_enc, b_dec = random_weights()
    options = {"k": K, "postact_fn": "ReLU"}
    sae = read_sae(peer_files.openai(tmp_path / "8.pt", weights, activation="TopK", activation_state_dict=options))
    assert isinstance(sae, DenseTopKSae)
    assert sae.metadata["imported"]["input"] == "layer_norm"
    x = layer_norm(X)
    torch.testing.assert_close(x, (X - X.mean(1, keepdim=True)) / (X.std(1, keepdim=True) + 1e-5))
    check(sae, topk((x - b_dec) @ encoder.T + b_enc, K), decoder, b_dec, x)
    sae = read_sae(peer_files.openai(tmp_path / "relu.pt", weights))
    assert isinstance(sae, ThresholdSae)
    check(sae, ((X - b_dec) @ encoder.T + b_enc).relu(), decoder, b_dec)
    with pytest.raises(ExpanderSaeError, match="TopK with a ReLU"):
        read_sae(
            peer_files.openai(
                tmp_path / "id.pt",
                weights,
                activation="TopK",
                activation_state_dict=options | {"postact_fn": "Identity"},
            )
        )


def test_threshold_saes_can_be_evaluated_and_written_again(tmp_path):
    from memory_store import MemoryStore

    folder = peer_files.saelens(tmp_path / "relu", random_weights(unit=False), "standard")
    sae = read_sae(folder)
    record = evaluate({"relu": sae}, MemoryStore({"heldout": X}))["relu"]
    assert record.k == N_LATENTS
    assert record.l0 == pytest.approx((sae.encode(X).values > 0).sum() / len(X))
    again = read_sae(write_sae(sae, tmp_path / "again", "saelens"))
    torch.testing.assert_close(again(X), sae(X), rtol=1e-5, atol=1e-5)
    with pytest.raises(ExpanderSaeError, match="TopK"):
        write_sae(sae, tmp_path / "no", "sparsify")
    with pytest.raises(ExpanderSaeError, match="'encoder'"):
        sae.encode(X, reading=parse_reading("omp"))


OURS = {
    "expander": lambda: ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=3, k=K, reading=Encoder()),
    "untied": lambda: ExpanderSae(
        d_in=D_IN, n_latents=N_LATENTS, degree=3, k=K, tied=False, latent_bias=True, reading=Encoder()
    ),
    "dense": lambda: DenseTopKSae(d_in=D_IN, n_latents=N_LATENTS, k=K),
}


@torch.no_grad()
def made(name):
    sae = OURS[name]()
    generator = torch.Generator().manual_seed(5)
    for parameter in sae.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator))
    sae.input_scale.fill_(0.5)
    return sae.eval()


@pytest.mark.parametrize("format", ["saelens-dense", "sparsify", "dictionary_learning", "openai"])
@pytest.mark.parametrize("name", OURS)
def test_what_is_written_densely_comes_back(tmp_path, name, format):
    sae = made(name)
    path = tmp_path / ("sae.pt" if format == "openai" else "layers.3")
    write_sae(sae, path, format)
    again = read_sae(path)
    assert detect_format(path) == format.removesuffix("-dense")
    assert isinstance(again, DenseTopKSae)
    assert again.tied == (name != "untied")
    assert torch.equal(again.encode(X).indices, sae.encode(X).indices)
    torch.testing.assert_close(again(X), sae(X))


def test_a_dense_file_is_refused_where_it_would_give_other_codes(tmp_path):
    pursuit = ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=3, k=K, reading=Stages(2))
    for format in ("saelens-dense", "sparsify", "dictionary_learning", "openai"):
        with pytest.raises(ExpanderSaeError, match="other codes"):
            write_sae(pursuit, tmp_path / "a", format)
    write_sae(pursuit, tmp_path / "a", "sparsify", reading=Encoder())
    again = read_sae(tmp_path / "a")
    assert torch.equal(again.encode(X).indices, pursuit.encode(X, reading=Encoder()).indices)
    with pytest.raises(ExpanderSaeError, match="signed"):
        write_sae(
            ExpanderSae(d_in=D_IN, n_latents=9, degree=3, k=2, signed=True, reading=Encoder()),
            tmp_path / "b",
            "saelens-dense",
        )


class Bomb:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return eval, ("open('harm', 'w')",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = peer_files.linear_state(random_weights(), bias=Bomb())
    folder = peer_files.dictionary_learning(tmp_path, state, "AutoEncoder")
    with pytest.raises(ExpanderSaeError, match="could run code"):
        read_sae(folder)
    with open(tmp_path / "plain.pt", "wb") as file:
        pickle.dump(Bomb(), file)
    with pytest.raises(ExpanderSaeError):
        read_sae(tmp_path / "plain.pt")
    assert not (tmp_path / "harm").exists()


def test_a_tensor_that_claims_more_than_it_holds(tmp_path):
    state = peer_files.linear_state(random_weights(), bias=torch.zeros(D_IN))
    state["encoder.weight"] = torch.zeros(1).expand(1 << 30, 1 << 20)
    with pytest.raises(ExpanderSaeError, match="claims; got fewer"):
        read_sae(peer_files.dictionary_learning(tmp_path, state, "AutoEncoder"))


def test_damaged_files(tmp_path):
    weights = random_weights()
    folder = peer_files.saelens(tmp_path / "lens", weights, "topk", k=K)
    whole = (folder / "sae_weights.safetensors").read_bytes()
    for broken in (whole[:40], whole[:-3], b"", b"\xff" * 100, (1 << 62).to_bytes(8, "little") + b"{}"):
        (folder / "sae_weights.safetensors").write_bytes(broken)
        with pytest.raises(ExpanderSaeError, match="not a whole safetensors file"):
            read_sae(folder)
    state = peer_files.linear_state(weights, b_dec=weights[3], k=torch.tensor(K), threshold=torch.tensor(0.0))
    learned = tmp_path / "learned"
    learned.mkdir()
    peer_files.dictionary_learning(learned, state, "AutoEncoderTopK")
    whole = (learned / "ae.pt").read_bytes()
    for broken in (whole[:40], whole[: len(whole) // 2], b"", b"\x80\x04."):
        (learned / "ae.pt").write_bytes(broken)
        with pytest.raises(ExpanderSaeError):
            read_sae(learned)
    torch.save([1, 2], learned / "ae.pt")
    with pytest.raises(ExpanderSaeError, match="state dict"):
        read_sae(learned)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "gated"}, "architecture"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
        ({"k": None}, "expected k"),
        ({"k": 1000}, "expected k"),
        ({"metadata": [1]}, None),
        ({"activation_fn_kwargs": 3}, "an object"),
    ],
)
def test_configs_that_say_something_else(tmp_path, change, says):
    folder = peer_files.saelens(tmp_path, random_weights(), "topk", k=K)
    config = json.loads((folder / "cfg.json").read_text()) | change
    (folder / "cfg.json").write_text(json.dumps(config))
    if says is None:
        assert read_sae(folder).k == K
        return
    with pytest.raises(ExpanderSaeError, match=says):
        read_sae(folder)


def test_arrays_that_do_not_fit(tmp_path):
    weights = random_weights()
    for extra, says in (
        ({"W_skip": torch.zeros(D_IN, D_IN)}, "skip"),
        ({"surplus": torch.zeros(1)}, "does not know"),
        ({"b_dec": torch.zeros(D_IN + 1)}, r"b_dec as \[12\]"),
        ({"b_dec": torch.full((D_IN,), torch.nan)}, "NaN"),
    ):
        with pytest.raises(ExpanderSaeError, match=says):
            read_sae(peer_files.sparsify(tmp_path, weights, extra=extra))
    for change in ({"transcode": True}, {"activation": "groupmax"}, {"k": "many"}):
        with pytest.raises(ExpanderSaeError, match=r"transcoder|groupmax|whole number"):
            read_sae(peer_files.sparsify(tmp_path, weights, **change))
    (tmp_path / "cfg.json").write_text("[]")
    with pytest.raises(ExpanderSaeError, match="JSON object"):
        read_sae(tmp_path)
    with pytest.raises(ExpanderSaeError, match="got none"):
        read_sae(tmp_path / "nowhere")
    with pytest.raises(ExpanderSaeError, match="format out of"):
        read_sae(tmp_path, "gguf")
    with pytest.raises(ExpanderSaeError, match="format out of"):
        write_sae(made("dense"), tmp_path, "gguf")


SAELENS_OURS = {
    **OURS,
    "stages": lambda: ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=3, k=K, reading=Stages(2), signed=True),
    "rows": lambda: with_learned_rows(300),
    "many rows": lambda: with_learned_rows(70_000),
}


def with_learned_rows(d_in):
    from expander_sae.graphs import make_mask, mask_from_rows

    rows = make_mask(d_in=d_in, n_latents=N_LATENTS, degree=3, seed=9).rows
    return ExpanderSae(
        d_in=d_in, n_latents=N_LATENTS, degree=3, k=K, reading=Stages(2), mask=mask_from_rows(rows, d_in=d_in)
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", SAELENS_OURS)
def test_our_own_architecture_comes_back_exactly(tmp_path, name, dtype):
    sae = SAELENS_OURS[name]()
    with torch.no_grad():
        sae.b_dec.normal_()
        for parameter in sae.parameters():  # numbers that the type can hold
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    sae.metadata = {"activations": {"model_id": "tiny", "layer": 2, "context": 64}}
    folder = write_sae(sae, tmp_path / "a", "saelens", dtype=dtype)
    again = read_sae(folder)
    x = torch.randn(20, sae.d_in)
    for one, other in zip(sae.eval().encode(x), again.encode(x), strict=True):
        assert torch.equal(one, other)
    assert again.describe() == sae.describe()
    assert again.metadata == sae.metadata
    state = sae.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())
    # As SAELens loads a file: every tensor cast to the float type.
    arrays = load_file(folder / "sae_weights.safetensors")
    save_file(
        {key: value.to(getattr(torch, dtype)) for key, value in arrays.items()}, folder / "sae_weights.safetensors"
    )
    cast = read_sae(folder).state_dict()
    assert all(torch.equal(value, state[key]) for key, value in cast.items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "other"}, "d_sae|kind"),
        ({"d_sae": 1 << 40}, "d_sae"),
        ({"d_in": 1 << 40}, "d_in"),
        ({"k": None}, "k as a"),
        ({"mask_seed": 1}, "wrong rows"),
        ({"mask_seed": None}, "mask_bytes"),
        ({"reading": "magic"}, "expected a reading"),
        ({"reading": None, "inference": "magic"}, "expected a reading"),
        ({"reading": 3}, "reading"),
        ({"stages": None}, "stages"),
    ],
)
def test_our_own_architecture_garbled(tmp_path, change, says):
    folder = write_sae(made("expander"), tmp_path, "saelens")
    config = json.loads((folder / "cfg.json").read_text()) | change
    (folder / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(ExpanderSaeError, match=says):
        read_sae(folder)


def test_mask_bytes_that_are_no_rows(tmp_path):
    folder = write_sae(with_learned_rows(300), tmp_path, "saelens")
    arrays = load_file(folder / "sae_weights.safetensors")
    for bad in (arrays["mask_bytes"].float() + 0.5, arrays["mask_bytes"][:, :, :2].contiguous(), torch.zeros(3)):
        save_file(arrays | {"mask_bytes": bad}, folder / "sae_weights.safetensors")
        with pytest.raises(ExpanderSaeError):
            read_sae(folder)


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ExpanderSaeError, match="dtype"):
        write_sae(made("dense"), tmp_path, "saelens", dtype="float8")
