"""`expander-sae certify`: what is guaranteed for a mask, for a trained SAE, and for its codes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expander_sae.records import ExpanderSaeError, Provenance, check_provenance, write_json

from .console import output


def certify(
    source: Annotated[
        str,
        typer.Argument(help="Folder of a trained sparse SAE, or a mask: CONSTRUCTION:D_IN:N_LATENTS:DEGREE:SEED."),
    ],
    k: Annotated[int | None, typer.Option(help="Active latents that matter.", show_default="the SAE's, or 32")] = None,
    acts: Annotated[
        Path | None, typer.Option(help="Also certify the SAE's codes of these activations: a harvest folder.")
    ] = None,
    split: Annotated[str, typer.Option(help="Side of the document split for --acts: heldout or train.")] = "heldout",
    inference: Annotated[
        str | None,
        typer.Option(help="How --acts are encoded: encoder, omp, stages:8, mp, ...", show_default="the SAE's own way"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="At most so many tokens of --acts.", show_default="the whole split")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the searches, and of sampling where counting would take too long.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Say what is guaranteed, and what is not, in plain words."""
    from expander_sae.theory import certify_dictionary, certify_mask  # torch takes seconds to import

    console = output(json, quiet=quiet)
    if ":" in source and not Path(source).exists():
        if acts is not None:
            raise ExpanderSaeError("expected the folder of an SAE with --acts; got a mask. A mask has no codes.")
        mask = _mask(source)
        k = 32 if k is None else k
        console.print(_cost(mask))
        found, codes = certify_mask(mask, k=k, seed=seed), None
    else:
        sae = _sparse_sae(source)
        k = int(sae.k) if k is None else k
        console.print(_cost(sae.mask))
        found = certify_dictionary(sae.dictionary(), sae.mask, k=k, seed=seed)
        codes = None if acts is None else _codes(sae, Path(source).name, acts, split, inference, max_tokens)
    if json is not None:
        write_json(json, {"source": source, "k": k, "certificates": [one.to_dict() for one in found], "codes": codes})
    if quiet:
        return
    for one in found:
        label = "vacuous" if one.vacuous else one.status
        console.print(f"{label:9}  {one.name}: {one.sentence}")
    if codes is not None:
        from expander_sae.theory.shares import MEANINGS

        console.print(f"\nOf {codes['tokens']} {split} tokens ({codes['tokens_per_second']:.0f} tokens/s):")
        for name, share in codes["share"].items():
            console.print(f"{share:9.1%}  {name}: {MEANINGS[name]}")
        console.print(
            f"{codes['sigma_min_median']:9.2f}  median of sigma_min(W_S): least squares on the support amplifies noise "
            "by at most its inverse",
            markup=False,
        )
        console.print(
            f"{codes['encoder_margin_median']:9.2%}  of a token's norm (median): noise below it cannot change which k "
            "correlations are largest",
            markup=False,
        )
        console.print(
            f"{codes['coverage_floor_share']:9.1%}  of the energy lies on rows the supports do not touch "
            f"({codes['refit_error_share']:.1%} is left by the refit)",
            markup=False,
        )


def _cost(mask: Any) -> str:
    """What counting all overlaps would take, said before it starts."""
    from expander_sae.graphs.overlap import DEFAULT_BUDGET, overlap_cost

    cost = overlap_cost(mask)
    text = f"Counting all overlaps takes {cost.increments:,} steps, about {cost.seconds:,.1f} s on one core"
    if cost.increments <= DEFAULT_BUDGET:
        return text + "."
    return f"{text}: above the budget of {DEFAULT_BUDGET:,}, so columns are sampled and what follows is estimated."


def _mask(source: str) -> Any:
    """The mask that a specification names."""
    from expander_sae.graphs import make_mask

    construction, *numbers = source.split(":")
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
        raise ExpanderSaeError(
            f"expected CONSTRUCTION:D_IN:N_LATENTS:DEGREE:SEED, for instance uniform:512:4096:7:0; got {source!r}."
        )
    d_in, n_latents, degree, seed = map(int, numbers)
    return make_mask(construction, d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)


def _sparse_sae(source: str) -> Any:
    """The SAE in a folder, if its dictionary is sparse."""
    from expander_sae.saes import IrregularSae, load_sae

    sae = load_sae(Path(source)).eval()
    if isinstance(sae, IrregularSae):
        raise ExpanderSaeError(
            f"expected an SAE with as many entries in every column; got one of irregular degrees in {source}: the "
            "certificates count on a left-regular mask. Train it with --regular."
        )
    if getattr(sae, "mask", None) is None:
        raise ExpanderSaeError(f"expected an SAE with a sparse dictionary; got one of kind {sae.kind!r} in {source}.")
    return sae


def _codes(
    sae: Any, name: str, acts: Path, split: str, inference: str | None, max_tokens: int | None
) -> dict[str, Any]:
    """For which share of tokens each certificate of a code holds."""
    import torch

    from expander_sae.activations import ActivationStore
    from expander_sae.pursuit import parse_reading
    from expander_sae.theory import CodeShares

    if max_tokens is not None and max_tokens < 1:
        raise ExpanderSaeError(f"expected --max-tokens of at least 1; got {max_tokens}.")
    store = ActivationStore.open(acts)
    if store.d_in != sae.d_in:
        raise ExpanderSaeError(f"expected activations of d_in {sae.d_in}, that of the SAE; got {store.d_in} in {acts}.")
    mismatches = check_provenance(name, sae, Provenance.of_settings(store.manifest["settings"]))
    reader = sae if inference is None else sae.read_by(parse_reading(inference))
    shares = CodeShares(sae.dictionary())
    with torch.no_grad():
        for block in store.blocks(split, max_tokens=max_tokens):
            x = block.float()
            shares.update(x - sae.center(), reader.encode(x))
    return {"inference": inference, "split": split, "mismatches": mismatches, **shares.summary()}
