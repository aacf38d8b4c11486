"""`expander-sae harvest`: text and a language model in, a folder of activation shards out."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from expander_sae.records import write_json
from expander_sae.records.remote import RemoteFolder, is_remote

from .console import output
from .options import ComputeDtype, Device


def harvest(
    model: Annotated[str, typer.Option(help="Folder of a Hugging Face causal language model, or its id on the hub.")],
    text: Annotated[
        list[str],
        typer.Option(
            help="Text: a .txt file (one document), a .jsonl or .parquet file, a folder of these, a `datasets` folder, "
            "or a dataset on the hub (owner/name or owner/name:configuration). May be given several times."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the shards. The same command again goes on there.")],
    layer: Annotated[
        int | None,
        typer.Option(help="Take the residual stream after this block, counted from 0.", show_default="the middle"),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(help="Take the output of this module instead, for instance model.layers.3.mlp or ...self_attn."),
    ] = None,
    context: Annotated[int, typer.Option(help="Tokens per block of text.")] = 256,
    max_tokens: Annotated[
        int | None, typer.Option(help="At most this many training tokens.", show_default="all")
    ] = None,
    max_heldout_tokens: Annotated[
        int | None,
        typer.Option(help="At most this many held-out tokens.", show_default="--max-tokens by the held-out share"),
    ] = None,
    max_document_tokens: Annotated[
        int | None,
        typer.Option(help="At most this many tokens of each document, to spread a small limit over many."),
    ] = None,
    heldout_share: Annotated[
        float, typer.Option(help="Share of the documents held out for evaluation, split before tokenising.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Blocks per forward pass.")] = 8,
    dtype: Annotated[
        str, typer.Option(help="Stored dtype: float16, bfloat16, float32, or auto (float16 or bfloat16 by range).")
    ] = "auto",
    compute_dtype: ComputeDtype = "auto",
    device: Device = "cpu",
    revision: Annotated[str | None, typer.Option(help="Revision of a model on the hub.")] = None,
    bos: Annotated[
        bool | None,
        typer.Option(
            "--bos/--no-bos",
            help="Begin every block with the beginning-of-sequence token.",
            show_default="as the tokenizer does",
        ),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    dataset_split: Annotated[str, typer.Option(help="Which split of a dataset.")] = "train",
    shard_tokens: Annotated[int, typer.Option(help="Tokens per shard, about.")] = 65_536,
    json: Annotated[Path | None, typer.Option(help="Also write what was done as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar and no table.")] = False,
) -> None:
    """Write a language model's activations on a text to disk.

    The first position of each block and special tokens are marked, so that training and metrics can leave
    them out. An interrupted harvest goes on where it stopped and ends with the same bytes.
    """
    from expander_sae.activations import harvest as run  # torch and transformers take seconds to import

    store = run(
        model,
        text,
        out,
        layer=layer,
        module=module,
        context=context,
        max_tokens=max_tokens,
        max_heldout_tokens=max_heldout_tokens,
        max_document_tokens=max_document_tokens,
        heldout_share=heldout_share,
        seed=seed,
        batch_size=batch_size,
        dtype=dtype,
        compute_dtype=compute_dtype,
        device=device,
        revision=revision,
        bos=bos,
        text_field=text_field,
        dataset_split=dataset_split,
        shard_tokens=shard_tokens,
        progress=not quiet,
    )
    record = {
        "folder": str(out),
        **{key: value for key, value in store.manifest.items() if key not in ("shards", "complete")},
        "shards": len(store.manifest["shards"]),
        "bytes_on_disk": sum(RemoteFolder(out).sizes().values())
        if is_remote(out)
        else sum(file.stat().st_size for file in out.iterdir() if file.is_file()),
    }
    if json is not None:
        write_json(json, record)
    if not quiet:
        output(json, soft_wrap=False).print(_table(record))


def _table(record: dict[str, Any]) -> Table:
    settings = record["settings"]
    table = Table(title=f"Activations in {record['folder']}", show_header=False)
    table.add_row("model", f"{settings['model_id']} ({settings['model_revision'][:19]})")
    place = settings.get("module") or f"after block {settings['layer']} (counted from 0)"
    table.add_row("activations", f"{place}, d_in {settings['d_in']}")
    for split, name in (("train", "training"), ("heldout", "held out")):
        counts = record["tokens"][split]
        table.add_row(
            name,
            f"{counts['ordinary']:,} ordinary of {counts['all']:,} tokens, {record['documents'][split]:,} documents",
        )
    table.add_row("on disk", f"{record['bytes_on_disk'] / 1e6:,.1f} MB in {record['shards']} shards, {record['dtype']}")
    return table
