"""A model, text, activations and SAEs, so small that every verb of the command line takes a moment."""

from pathlib import Path
from typing import NamedTuple

from tiny_models import make_documents, make_tiny_model, write_jsonl
from typer.testing import CliRunner

from expander_sae.activations import harvest, load_language_model
from expander_sae.cli.main import app


class Shop(NamedTuple):
    folder: Path

    def arguments(self, verb: str, out: Path | str, tokens: int = 1000) -> list[str]:
        """Of a run of a verb that writes to `out`, and trains on so many tokens if it trains."""
        at = self.folder
        small = ("--tokens", tokens, "--batch-size", 100)
        given = {
            "harvest": ("--model", at / "model", "--text", at / "text.jsonl", "--out", out, "--context", 32,
                        "--shard-tokens", 320, "--layer", 1),
            "train": (at / "acts", "--out", out, "--degree", 4, "--n-latents", 64, "--k", 4, "--stages", 2,
                      "--regular", *small),
            "amortise": (at / "saes/expander-d4", at / "acts", "--out", out, *small),
            "compress": (at / "saes/dense", "--acts", at / "acts", "--out", out, "--degree", 4, "--no-ce",
                         "--stages", 2, *small),
            "convert": (at / "saes/expander-d4", "--out", out),
            "export": (at / "saes/expander-d4", "--out", out),
            "import": (at / "exported", "--out", out),
            "push": (at / "saes/expander-d4", "owner/name", "--to-folder", out),
            "encode": (at / "saes/expander-d4", "--acts", at / "acts", "--out", out),
            "features": (at / "saes/expander-d4", "--acts", at / "acts", "--model", at / "model", "--out", out),
            "eval": (at / "acts", at / "saes/expander-d4", "--no-ce", "--json", out),
            "certify": (at / "saes/expander-d4", "--json", out),
            "frontier": (at / "acts", "--out", out, "--degrees", 4, "--controls", "dense", "--n-latents", 64, "--k", 4,
                         "--stages", 2, "--no-ce", *small),
            "experiment": ("geometry", "--acts", at / "acts", "--out", out, "--degrees", 4, "--n-latents", 64, "--k", 4,
                           "--stages", 2, "--seeds", 0, "--no-ce", *small),
        }[verb]  # fmt: skip
        return [verb, *map(str, given)]


def call(arguments, expected: int = 0) -> str:
    """What a verb says, on both streams; what it raises is raised."""
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == expected, done.output
    return done.output


_made: list[Shop] = []


def shop_in(factory) -> Shop:
    """The one shop of a test run; `factory` is pytest's `tmp_path_factory`."""
    if not _made:
        _made.append(make_shop(factory.mktemp("shop")))
    return _made[0]


def make_shop(at: Path) -> Shop:
    lm = load_language_model(make_tiny_model(at / "model"), dtype="float32")
    text = write_jsonl(at / "text.jsonl", make_documents(24))
    harvest(lm, text, at / "acts", context=32, heldout_share=0.25, layer=1, progress=False)
    it = Shop(at)
    call([*it.arguments("train", at / "saes"), "--dense", "--quiet"])
    call(
        ["export", str(at / "saes/dense"), "--out", str(at / "exported"), "--to", "sparsify", "--inference", "encoder"]
    )
    return it
