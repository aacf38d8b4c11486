"""`frontier`, `eval` and `encode` as a user calls them, on a tiny model in a folder."""

import io
from dataclasses import replace

import pytest
import torch
import typer
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl
from typer.testing import CliRunner

from expander_sae.activations import harvest
from expander_sae.cli.encode import encode
from expander_sae.cli.evaluate import evaluate, sae_names
from expander_sae.cli.frontier import frontier, table
from expander_sae.cli.source import model_note
from expander_sae.frontier import load_frontier
from expander_sae.pursuit import Encoder
from expander_sae.records import EvaluationRecord, ExpanderSaeError, read_json
from expander_sae.saes import ExpanderSae, load_sae

app = typer.Typer()
app.command("eval")(evaluate)
app.command("frontier")(frontier)
app.command("encode")(encode)


def call(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    make_tiny_model(folder / "model")
    text = write_jsonl(folder / "text.jsonl", make_documents(24))
    harvest(folder / "model", text, folder / "acts", context=32, heldout_share=0.25, progress=False)
    return folder


@pytest.fixture(scope="module")
def finished(place):
    output = call(
        "frontier", place / "acts", "--out", place / "out", "--degrees", "2,4,8", "--k", 6, "--n-latents", 64,
        "--tokens", 2000, "--batch-size", 100, "--model", place / "model", "--ce-tokens", 200,
        "--json", place / "copy.json",
    )  # fmt: skip
    return place / "out", output


def test_frontier_writes_everything_and_says_so(place, finished):
    out, output = finished
    assert "no matched dense control for degree 2" in output
    assert "…" not in output.split("means over seeds")[1]
    assert "expander-d4" in output
    assert "report.html" in output.replace("\n", "")
    sealed = read_json(out / "frontier.json")
    assert sealed.pop("sha256")  # of the file itself
    assert read_json(place / "copy.json") == sealed
    page = (out / "report.html").read_text()
    assert "no matched dense control for degree 2".capitalize()[1:] in page
    assert "expander-sae" in page
    again = call(
        "frontier", place / "acts", "--out", out, "--degrees", "2,4,8", "--k", 6, "--n-latents", 64,
        "--tokens", 2000, "--batch-size", 100, "--model", place / "model", "--ce-tokens", 200,
    )  # fmt: skip
    assert "already trained" in again
    assert "evaluations are already done" in again


def test_the_table_of_a_full_sized_frontier_fits_a_terminal(finished):
    out, _ = finished
    found = load_frontier(out)
    large = [
        replace(one, variant="expander-d200", evaluation=replace(one.evaluation, learned_values=2_654_784))
        for one in found.records
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(table(replace(found, records=large)))
    shown = console.file.getvalue()
    assert "2,654,784" in shown
    assert "…" not in shown
    assert all(heading in shown for heading in ("fvu", "dead", "Δ CE", "KL", "rec.", "ret."))


def test_the_paper_preset(place, tmp_path):
    call(
        "frontier", place / "acts", "--out", tmp_path, "--degrees", 4, "--controls", "none", "--preset", "paper",
        "--k", 6, "--n-latents", 64, "--tokens", 1000, "--model", place / "model", "--ce-tokens", 100, "--quiet",
    )  # fmt: skip
    record = read_json(tmp_path / "frontier.json")["records"][0]["evaluation"]
    assert (record["signed"], record["construction"], record["splice"]) == (True, "repaired", "everywhere")
    assert (record["keep_special_tokens"], record["outlier_medians"]) == (True, None)


def test_eval_gives_the_frontiers_own_numbers(place, finished, tmp_path):
    out, _ = finished
    saes = [out / "seed0" / name for name in ("expander-d4", "dense")]
    output = call(
        "eval", place / "acts", *saes, "--model", place / "model", "--ce-tokens", 200, "--json", tmp_path / "e.json"
    )
    assert "expander-d4" in output
    records = {name: EvaluationRecord.from_dict(record) for name, record in read_json(tmp_path / "e.json").items()}
    for record in read_json(out / "frontier.json")["records"]:
        if record["variant"] in records:
            again = records[record["variant"]]
            assert again.fvu == record["evaluation"]["fvu"]
            assert again.ce_recon == pytest.approx(record["evaluation"]["ce_recon"], rel=1e-6)


def test_eval_and_encode_read_by_another_inference(place, finished, tmp_path):
    out, _ = finished
    sae = out / "seed0/expander-d4"
    call(
        "eval", place / "acts", sae, "--no-ce", "--inference", "encoder, omp,mp:4", "--json", tmp_path / "e.json",
        "--quiet",
    )  # fmt: skip
    records = read_json(tmp_path / "e.json")
    assert [record["inference"] for record in records.values()] == ["encoder", "omp", "mp:4"]
    assert records["expander-d4 omp"]["fvu"] < records["expander-d4 encoder"]["fvu"]
    codes = tmp_path / "codes.safetensors"
    call("encode", sae, "--acts", place / "acts", "--out", codes, "--inference", "omp", "--quiet")
    with safe_open(codes, "pt") as file:
        assert file.metadata()["inference"] == "omp"
        found = file.get_tensor("values")
    call("encode", sae, "--acts", place / "acts", "--out", codes, "--inference", "encoder", "--quiet", "--overwrite")
    assert not torch.equal(found, load_file(codes)["values"])
    with pytest.raises(ExpanderSaeError, match="reading out of encoder"):
        call("eval", place / "acts", sae, "--no-ce", "--inference", "lasso")


def test_eval_needs_to_know_where_the_model_is(place, finished):
    out, _ = finished
    with pytest.raises(ExpanderSaeError, match="--model FOLDER"):
        call("eval", place / "acts", out / "seed0/dense")
    assert "fvu" in call("eval", place / "acts", out / "seed0/dense", "--no-ce")


def test_encode_activations(place, finished, tmp_path):
    out, _ = finished
    call(
        "encode",
        out / "seed0/expander-d4",
        "--acts",
        place / "acts",
        "--out",
        tmp_path / "codes.safetensors",
        "--quiet",
    )
    codes = load_file(tmp_path / "codes.safetensors")
    from expander_sae.activations import ActivationStore

    store = ActivationStore.open(place / "acts")
    x = torch.cat(list(store.blocks("heldout"))).float()
    with torch.no_grad():
        expected = load_sae(out / "seed0/expander-d4").encode(x)
    assert torch.equal(codes["indices"].long(), expected.indices)
    assert torch.equal(codes["values"], expected.values)
    blocks = store.tokens("heldout")
    assert torch.equal(codes["token_id"], blocks.input_ids[codes["block"].long(), codes["position"].long()])
    assert int(codes["position"].min()) == 1
    with safe_open(tmp_path / "codes.safetensors", "pt") as file:
        assert file.metadata()["n_latents"] == "64"


def test_encode_text_gives_the_codes_of_its_activations(place, finished, tmp_path):
    out, _ = finished
    arguments = ["encode", out / "seed0/expander-d4", "--context", 32, "--quiet", "--keep-special-tokens"]
    text = [*arguments, "--text", place / "text.jsonl", "--model", place / "model"]
    call(*text, "--out", tmp_path / "text.safetensors", "--json", tmp_path / "done.json", "--max-tokens", 90)
    codes = load_file(tmp_path / "text.safetensors")
    assert codes["indices"].shape == (90, 6)
    assert codes["position"][:33].tolist() == [*range(32), 0]
    assert read_json(tmp_path / "done.json")["layer"] == "1"


def test_what_is_refused(place, tmp_path):
    ExpanderSae(d_in=D_IN + 1, n_latents=64, degree=4, k=4, reading=Encoder()).save(tmp_path / "wide")
    ExpanderSae(d_in=D_IN, n_latents=64, degree=4, k=4, reading=Encoder()).save(tmp_path / "fresh")
    out = ["--out", tmp_path / "codes.safetensors", "--quiet"]
    with pytest.raises(ExpanderSaeError, match="either --acts"):
        call("encode", tmp_path / "wide", *out)
    with pytest.raises(ExpanderSaeError, match=f"d_in {D_IN + 1}"):
        call("encode", tmp_path / "wide", "--acts", place / "acts", *out)
    with pytest.raises(ExpanderSaeError, match="--layer"):
        call("encode", tmp_path / "fresh", "--text", place / "text.jsonl", *out)
    with pytest.raises(ExpanderSaeError, match="--model"):
        call("encode", tmp_path / "fresh", "--text", place / "text.jsonl", "--layer", 1, *out)
    with pytest.raises(ExpanderSaeError, match="whole numbers"):
        call("frontier", place / "acts", "--out", tmp_path / "f", "--degrees", "4,x", "--no-ce")
    with pytest.raises(ExpanderSaeError, match="--preset"):
        call("frontier", place / "acts", "--out", tmp_path / "f", "--preset", "new", "--no-ce")
    with pytest.raises(ExpanderSaeError, match="got no manifest"):
        call("eval", tmp_path, tmp_path / "fresh", "--no-ce")


def test_a_report_on_the_offline_model_says_what_it_is(tmp_path):
    (tmp_path / "model").mkdir()
    assert model_note(str(tmp_path / "model")) is None
    (tmp_path / "offline.json").write_text("{}")
    assert "4 bits" in str(model_note(str(tmp_path / "model")))


def test_every_option_has_help():
    for command in app.registered_commands:
        parameters = typer.main.get_command_from_info(
            command, pretty_exceptions_short=True, rich_markup_mode=None
        ).params
        assert parameters
        assert all(getattr(parameter, "help", None) for parameter in parameters), command.name


def test_short_names(tmp_path):
    assert list(sae_names([tmp_path / "a/x", tmp_path / "b/x"])) == ["a/x", "b/x"]
    assert list(sae_names([tmp_path / "a/x", tmp_path / "b/y"])) == ["x", "y"]
    with pytest.raises(ExpanderSaeError, match="twice"):
        sae_names([tmp_path / "a", tmp_path / "a"])
