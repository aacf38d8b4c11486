"""Does it hold at other layers? One grid for each harvest given with `--acts`."""

from __future__ import annotations

from expander_sae.records import ExpanderSaeError

from .along import diverged_along, figures_along, first_of, lines_along, runs_of, tables_along
from .beside import Paper
from .context import Context
from .drawing import lines
from .experiment import Experiment, Figure, Measured, Page
from .quality import mean_of

_AXIS = "layer"


def measure(context: Context) -> Measured:
    """The same grid on every layer's activations."""
    by_layer = {store.layer: store for store in context.stores if store.layer is not None}
    if len(by_layer) < len(context.stores):
        layers = [store.layer for store in context.stores]
        raise ExpanderSaeError(f"expected harvests of the residual stream after different layers, got layers {layers}")
    runs = []
    for layer, store in sorted(by_layer.items()):
        context.say(f"layer {layer}")
        degrees = context.chosen_degrees(store)
        grid = context.grid(degrees=degrees, controls=context.option("controls"), store=store)
        runs.append({"at": layer, "frontier": grid.frontier.to_dict()})
    return {"runs": runs}


def show(measured: Measured) -> Page:
    """Fidelity and retention by layer."""
    runs = runs_of(measured)
    parts = []
    for layer, summaries in runs:
        sparse = first_of(summaries, "expander")
        zero, mean = mean_of(sparse, "retention_zero"), mean_of(sparse, "retention_mean")
        fvu = mean_of(sparse, "fvu")
        if sparse is not None and fvu is not None:
            kept = (
                "" if zero is None or mean is None else f", retention {zero:.3f} (zero form) and {mean:.3f} (mean form)"
            )
            parts.append(f"layer {layer:.0f}: {sparse.variant} fvu {fvu:.3f}{kept}")
    return Page(
        claim="; ".join(parts)[:1].upper() + "; ".join(parts)[1:] + ".",
        tables=tables_along(runs, "Layer"),
        figures=figures_along(runs, _AXIS, log_x=False),
        notes=["Layers are counted from 0.", *diverged_along(measured, "layer")],
    )


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """CE recovered and rel_err by layer, the paper's and an independent replication's."""
    return [
        lines(
            f"{metric}_beside_the_paper",
            f"{metric} by layer, beside the paper's",
            [
                *lines_along(runs_of(measured), metric),
                *paper.along_layers(metric),
                *paper.replication(metric, "layer"),
            ],
            x=_AXIS,
            y=metric,
        )
        for metric in ("rel_err", "ce_recovered_zero")
    ]


EXPERIMENT = Experiment(
    name="layers",
    question="Does the comparison come out the same at other layers?",
    measure=measure,
    show=show,
    needs=("activations",),
    options={"degrees": [7, 30], "controls": ["dense", "matched", "matched-omp"]},
    every_layer=True,
    beside=beside,
)
