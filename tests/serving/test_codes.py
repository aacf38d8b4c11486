"""What is answered is what `encode` says, whoever else asks at the same moment."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from served import TEXTS, encoded, make_model, make_saes, same_codes, served
from tiny_models import D_IN

from expander_sae.activations.modules import activations_at, activations_at_all
from expander_sae.serving.limits import Limits
from expander_sae.serving.readers import Texts, passes

WINDOW = Limits(window=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def folders(folder):
    return make_saes(folder)


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder)


@pytest.fixture(scope="module")
def client(folders, model):
    with served(folders, model=model) as client:
        yield client


def batches(client):
    """How many batches there were, and requests in them."""
    lines = client.get("/metrics").text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("expander_sae_batch_requests_"))
    return float(found["expander_sae_batch_requests_count"]), float(found["expander_sae_batch_requests_sum"])


@pytest.mark.parametrize("name", ["stages", "encoder", "dense", "alone"])
def test_requests_that_share_a_batch_get_the_bits_of_encode(folders, name):
    x = [torch.randn(n, D_IN) for n in (1, 3, 16, 17, 1, 40, 2, 5)]
    with served(folders, limits=WINDOW) as client, ThreadPoolExecutor(8) as pool:
        told = list(
            pool.map(lambda one: client.post(f"/v1/activations?sae={name}", json={"activations": one.tolist()}), x)
        )
        count, requests = batches(client)
        assert requests == 8
        assert count < 8  # some were answered together
        for one, answer in zip(x, told, strict=True):
            codes = encoded(client.server.saes[name], one)
            assert answer.status_code == 200, answer.text
            assert same_codes(answer, codes)


@pytest.mark.parametrize("kind", ["octet-stream", "x-npy", "x-safetensors", "half", "double"])
def test_activations_in_bytes(client, kind):
    x = torch.randn(5, D_IN)
    file = io.BytesIO()
    if kind == "octet-stream":
        data = x.numpy().tobytes()
    elif kind == "x-npy":
        np.save(file, x.numpy())
        data = file.getvalue()
    elif kind == "double":
        np.save(file, x.double().numpy())
        kind, data = "x-npy", file.getvalue()
    elif kind == "half":
        x = x.to(torch.bfloat16)
        kind, data = "x-safetensors", save({"activations": x})
    else:
        data = save({"activations": x})
    answer = client.post("/v1/activations?sae=stages", content=data, headers={"content-type": f"application/{kind}"})
    assert same_codes(answer, encoded(client.server.saes["stages"], x.float()))


def test_codes_as_safetensors_and_the_largest_of_them(client):
    x = torch.randn(4, D_IN)
    codes = encoded(client.server.saes["stages"], x)
    answer = client.post(
        "/v1/activations?sae=stages&top=2",
        content=x.numpy().tobytes(),
        headers={"content-type": "application/octet-stream", "accept": "application/x-safetensors"},
    )
    found = load(answer.content)
    largest = codes.values.abs().sort(dim=1, descending=True, stable=True).indices[:, :2]
    assert torch.equal(found["indices"], codes.indices.gather(1, largest).int())
    assert torch.equal(found["values"], codes.values.gather(1, largest))
    signed = client.post("/v1/activations?sae=encoder&top=3", json={"activations": x.tolist()}).json()["values"]
    largest = encoded(client.server.saes["encoder"], x).values.abs().sort(dim=1, descending=True).values[:, :3]
    assert torch.equal(torch.tensor(signed).abs(), largest)


def test_several_saes_read_one_forward_pass(client):
    model = client.server.language_model
    runs = []
    handle = model.model.model.layers[0].register_forward_hook(lambda *_: runs.append(1))
    try:
        told = client.post("/v1/texts?top=6", json={"texts": [TEXTS[0]]}).json()
    finally:
        handle.remove()
    assert len(runs) == 1
    (text,) = told["texts"]
    assert "".join(text["tokens"]) == TEXTS[0]
    assert set(text["saes"]) == {"stages", "encoder", "dense"}  # the fourth does not say where it belongs
    ids = torch.tensor([model.tokenizer(TEXTS[0])["input_ids"]])
    assert text["read"] == [False] + [True] * (ids.shape[1] - 1)
    for name, place in (("stages", 0), ("encoder", 1), ("dense", 0)):
        hidden = activations_at(model.model, place, ids, torch.ones_like(ids))[0, 1:]
        codes = encoded(client.server.saes[name], hidden)
        expected = [
            sorted(([j, v] for j, v in zip(*pair, strict=True) if v), key=lambda one: -abs(one[1]))
            for pair in zip(codes.indices.tolist(), codes.values.tolist(), strict=True)
        ]
        assert text["saes"][name]["tokens"] == [[], *expected]  # a text alone: the bits of `encode`
        best = max((abs(v), j) for line in expected for j, v in line)
        assert (abs(text["saes"][name]["top"][0]["activation"]), text["saes"][name]["top"][0]["latent"]) == best


def test_texts_together_are_texts_alone_up_to_the_rounding_of_the_model(client):
    together = client.post("/v1/texts?sae=stages&top=6", json={"texts": TEXTS}).json()["texts"]
    for text, one in zip(TEXTS, together, strict=True):
        alone = client.post("/v1/texts?sae=stages&top=6", json={"texts": [text]}).json()["texts"][0]
        assert one["tokens"] == alone["tokens"]
        for here, there in zip(one["saes"]["stages"]["tokens"], alone["saes"]["stages"]["tokens"], strict=True):
            assert {j for j, _ in here} == {j for j, _ in there}
            assert dict(here) == pytest.approx(dict(there), rel=1e-4, abs=1e-5)


def test_without_a_window_the_same_request_gets_the_same_bits(folders, model):
    with served(folders, model=model, limits=Limits(window=0)) as client, ThreadPoolExecutor(6) as pool:
        first = client.post("/v1/texts", json={"texts": TEXTS}).content
        others = [{"texts": [text]} for text in TEXTS] + [{"texts": TEXTS}] * 3
        told = list(pool.map(lambda one: client.post("/v1/texts", json=one).content, others))
        assert told[3:] == [first] * 3
        count, requests = batches(client)
        assert count == requests == 7


def test_places_read_together_are_those_read_alone(client):
    model = client.server.language_model.model
    ids = torch.randint(2, 300, (2, 7))
    places = [2, 0, "model.layers.1.mlp"]
    found = activations_at_all(model, places, ids, None)
    assert list(found) == places
    for place in places:
        assert torch.equal(found[place], activations_at(model, place, ids, None))


def test_a_forward_pass_is_bounded_with_its_padding():
    works = [Texts([], [torch.zeros(n, dtype=torch.int64) for n in lengths]) for lengths in ((50, 1, 1), (9, 10, 200))]
    everything = [(work, i) for work in works for i in range(3)]
    found = list(passes(everything, 100))
    assert sorted(map(id, (work for chosen in found for work, _ in chosen))) == sorted(id(w) for w, _ in everything)
    for chosen in found:
        lengths = [len(work.ids[i]) for work, i in chosen]
        assert len(chosen) == 1 or max(lengths) * len(lengths) <= 100


def test_what_is_served_is_listed(client):
    told = client.get("/v1/saes").json()
    assert told["model"] == "model"
    listed = {one.pop("name"): one for one in told["saes"]}
    assert listed["stages"] == {
        "d_in": D_IN, "n_latents": 96, "k": 6, "reading": "stages:3", "place": 0, "labels": False,
    }  # fmt: skip
    assert listed["alone"]["place"] is None
