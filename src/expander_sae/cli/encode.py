"""`expander-sae encode`: an SAE and activations or text in, sparse codes out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expander_sae.records import ExpanderSaeError, Provenance, check_provenance, write_json
from expander_sae.records.progress import Bars

from .console import output
from .options import ComputeDtype, Device, EncodedAtOnce, KeepSpecialTokens, Overwrite
from .results import there_already, write_result


def encode(
    sae: Annotated[Path, typer.Argument(help="Folder of a trained SAE.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, *.safetensors: k indices and values a token, and the tokens."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Or print, for each token, its largest codes with what is known of the latents: a feature store that "
            "`expander-sae features` wrote, and the labels beside it."
        ),
    ] = None,
    latent: Annotated[
        int | None, typer.Option(help="With --labels, and without a text: print one latent and its best contexts.")
    ] = None,
    top: Annotated[int, typer.Option(help="With --labels: latents of each token at most.")] = 4,
    acts: Annotated[
        Path | None, typer.Option(help="Encode these activations: a folder that `expander-sae harvest` wrote.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Encode this text instead: .txt, .jsonl, .parquet, a folder, a dataset. May be repeated."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model for --text: folder or hub id.", show_default="the one the SAE was trained on"
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Block, counted from 0, for --text.", show_default="the one the SAE was trained on"),
    ] = None,
    split: Annotated[str, typer.Option(help="Side of the document split for --acts: heldout or train.")] = "heldout",
    context: Annotated[int, typer.Option(help="Tokens per block of text for --text.")] = 256,
    max_tokens: Annotated[
        int | None, typer.Option(help="Encode only the first so many tokens.", show_default="all")
    ] = None,
    keep_special_tokens: KeepSpecialTokens = False,
    inference: Annotated[
        str | None,
        typer.Option(
            help="How codes are read: encoder, refit, stages:T, omp, warm:M, nnomp, mp, gradient, cosamp, niht; see "
            "docs/concepts/readings.md.",
            show_default="the SAE's own",
        ),
    ] = None,
    batch_size: EncodedAtOnce = 2048,
    compute_dtype: ComputeDtype = "auto",
    device: Device = "cpu",
    overwrite: Overwrite = False,
    json: Annotated[Path | None, typer.Option(help="Also write what was done as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Write the sparse codes of activations or of a text, or print them with the names of the latents.

    The file has `indices` (int32) and `values` (float32), both [tokens, k] by falling value, and `token_id`, `block`
    and `position` (int32, [tokens]); read it with safetensors.
    """
    from expander_sae.activations import ActivationStore  # torch takes seconds to import
    from expander_sae.activations.tokens import MIN_PIECE
    from expander_sae.evaluation.codes import store_batches, write_codes
    from expander_sae.pursuit import parse_reading
    from expander_sae.saes import load_sae

    from .encode_shown import open_names, print_codes, print_latent

    if (out is None) == (labels is None):
        raise ExpanderSaeError(
            f"expected either --out FILE or --labels STORE; got {'neither' if out is None else 'both'}"
        )
    reading = None if inference is None else parse_reading(inference)
    if latent is not None:
        if labels is None or acts is not None or text:
            raise ExpanderSaeError("expected --latent with --labels alone; got it with another source, or without")
        with open_names(labels, load_sae(sae).read_by(reading)) as names:
            print_latent(output(), names, latent)
        return
    if (acts is None) == (not text):
        raise ExpanderSaeError(f"expected either --acts FOLDER or --text SOURCE; got {'both' if text else 'neither'}")
    loaded = load_sae(sae).to(device).read_by(reading)
    if acts is not None:
        store = ActivationStore.open(acts)
        if store.d_in != loaded.d_in:
            raise ExpanderSaeError(
                f"expected activations of d_in {loaded.d_in}, that of the SAE; got {store.d_in} in {acts}. "
                "Were they harvested from another model?"
            )
        settings = store.manifest["settings"]
        met = Provenance.of_settings(settings)
        source = {
            "model_id": settings["model_id"],
            "layer": str(settings.get("module") or settings["layer"]),
            "split": split,
        }
        batches = store_batches(store, split, keep_special_tokens=keep_special_tokens, batch_size=batch_size)
        tokenizer = None
    else:
        source, met, batches, tokenizer = _from_text(
            loaded, text or [], model, layer, context, max_tokens, keep_special_tokens, compute_dtype, device,
            shortest=MIN_PIECE if labels is None else 2,
        )  # fmt: skip
    described = {"format": "expander-sae codes 1", "sae": sae.name, "kind": loaded.kind}
    described |= {name: str(getattr(loaded, name)) for name in ("d_in", "n_latents", "k")}
    described["inference"] = str(loaded.reading)
    mismatches = check_provenance(sae.name, loaded, met)
    if mismatches is not None:
        described["mismatches"] = "; ".join(mismatches)
    if labels is not None:
        with open_names(labels, loaded) as names:
            print_codes(output(), names, _codes(loaded, batches, max_tokens), _words(names, tokenizer), top)
        return
    assert out is not None
    metadata = {**described, **source}
    if not overwrite and out.is_file() and _metadata(out) != metadata:
        raise there_already(out)  # before the work, not after
    tokens = 0

    def write(place: Path) -> None:
        nonlocal tokens
        tokens = write_codes(
            loaded,
            batches,
            place,
            metadata=metadata,
            max_tokens=max_tokens,
            progress=lambda count: bars.advance(bar, count),
        )

    with Bars("Encoding", show=not quiet) as bars:
        bar = bars.begin("tokens", max_tokens)
        write_result(out, overwrite, write)
    size = out.stat().st_size if out.is_file() else None  # a pipe has none
    if json is not None:
        write_json(json, {**metadata, "tokens": tokens, "file": str(out), "bytes": size})
    if not quiet:
        megabytes = "" if size is None else f", {size / 1e6:,.1f} MB"
        output(json, out).print(f"{tokens:,} tokens{megabytes}: {out}")


def _metadata(path: Path) -> dict[str, str] | None:
    """In the header of a file of codes; None if it is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata()
    except SafetensorError:
        return None


def _from_text(
    sae: Any,
    text: list[str],
    model: str | None,
    layer: int | None,
    context: int,
    max_tokens: int | None,
    keep_special_tokens: bool,
    compute_dtype: str,
    device: str,
    *,
    shortest: int,
) -> tuple[dict[str, str], Provenance, Any, Any]:
    """What the text's activations are, in words and for comparing, the activations, and the tokenizer."""
    from expander_sae.activations import load_language_model, tokenize
    from expander_sae.evaluation.codes import check_width, text_batches

    from .source import model_name

    trained_on = sae.metadata.get("activations") or {}
    place = layer if layer is not None else trained_on.get("module", trained_on.get("layer"))
    if place is None:
        raise ExpanderSaeError(
            "expected the layer this SAE was trained on in its metadata; got none. Give it with --layer."
        )
    language_model = load_language_model(model_name(model, trained_on), dtype=compute_dtype, device=device)
    if isinstance(place, int):
        check_width(sae, language_model)
    # A few more than asked for: first positions are not encoded by default.
    limit = None if max_tokens is None else 2 * max_tokens + context
    blocks = tokenize(
        text, language_model.tokenizer, context=context, heldout_share=0.0, max_tokens=limit, min_piece=shortest
    ).blocks
    source = {"model_id": language_model.model_id, "layer": str(place)}
    met = Provenance(
        model=language_model.model_id,
        revision=language_model.revision,
        layer=place if isinstance(place, int) else None,
        module=None if isinstance(place, int) else place,
        normalisation="none",
    )
    batches = text_batches(blocks["train"], language_model, place, keep_special_tokens=keep_special_tokens)
    return source, met, batches, language_model.tokenizer


def _codes(sae: Any, batches: Any, max_tokens: int | None) -> Any:
    """Token ids, indices and values of the tokens of each batch, as lists."""
    import torch

    left = max_tokens
    for batch in batches:
        count = len(batch.x) if left is None else min(len(batch.x), left)
        if count == 0:
            return
        with torch.no_grad():
            codes = sae.encode(batch.x[:count].float().to(next(sae.parameters()).device))
        yield batch.token_id[:count].tolist(), codes.indices.tolist(), codes.values.tolist()
        left = None if left is None else left - count


def _words(names: Any, tokenizer: Any) -> Any:
    """What tokens say: by the tokenizer, or by the store where there is none."""
    from expander_sae.latents.identity import token_texts

    if tokenizer is not None:
        return lambda ids: token_texts(tokenizer, ids)
    return lambda ids: [names.store.words(ids)[one] for one in ids]
