"""Draw docs/figures/cpu.svg from benchmarks/results/cpu.csv: cost against size, degree and batch, and the ceilings.

python benchmarks/figures.py
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

HERE = Path(__file__).parent
Row = dict[str, str]


def of(rows: list[Row], call: str) -> list[Row]:
    return sorted(
        (row for row in rows if row["call"] == call), key=lambda row: int(row["d_in"]) * int(row["n_latents"])
    )


def main() -> None:
    with open(HERE / "results" / "cpu.csv", encoding="utf-8") as file:
        everything = list(csv.DictReader(file))
    # One machine on one set: the last ones measured whole.
    shown = max(
        (row for row in everything if row["call"] == "encode d=64" and row["share_of_ceiling"]),
        key=lambda row: row["date"],
    )
    rows = [row for row in everything if all(row[name] == shown[name] for name in ("cpu", "instruction_set"))]
    plt.rcParams.update({"svg.hashsalt": "cpu", "axes.spines.top": False, "axes.spines.right": False})
    figure, ((size, degree), (batch, share)) = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    lines = (
        ("dense encode float32", "dense encode", "#D55E00", "s--"),
        ("dense step", "dense step", "#E69F00", "s:"),
        ("encode d=7", "Expander encode, degree 7", "#0072B2", "o-"),
        ("step d=7", "Expander step, degree 7", "#56B4E9", "o:"),
    )
    for call, name, color, style in lines:
        found = of(rows, call)
        x = [int(row["d_in"]) * int(row["n_latents"]) for row in found]
        size.plot(x, [float(row["us_per_token"]) for row in found], style, color=color, label=name)
    size.set(xscale="log", yscale="log", xlabel="d_in x n_latents", ylabel="µs per token", title="against size")
    size.legend(frameon=False, fontsize=8)
    shapes = sorted({(int(row["d_in"]), int(row["n_latents"])) for row in rows})
    for d_in, n_latents in shapes:
        here = [row for row in rows if (int(row["d_in"]), int(row["n_latents"])) == (d_in, n_latents)]
        points = sorted(
            (int(row["call"].removeprefix("encode d=")), float(row["us_per_token"]))
            for row in here
            if row["call"].startswith("encode d=")
        )
        degree.plot(*zip(*points, strict=True), "o-", label=f"{d_in} x {n_latents}", markersize=4)
    degree.set(xscale="log", yscale="log", xlabel="degree", ylabel="µs per token", title="encode against degree")
    for axis, ticks in ((degree.xaxis, (4, 7, 16, 32, 64)), (degree.yaxis, (3, 5, 10, 20, 50))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(ScalarFormatter())
    for axis in (size.xaxis, degree.xaxis, degree.yaxis):
        axis.set_minor_formatter(NullFormatter())
    degree.legend(frameon=False, fontsize=8)
    for d_in, n_latents in shapes:
        points = sorted(
            (int(row["call"].split()[1]), float(row["us_per_token"]))
            for row in rows
            if row["call"].startswith("batch") and (int(row["d_in"]), int(row["n_latents"])) == (d_in, n_latents)
        )
        if points:
            batch.plot(*zip(*points, strict=True), "o-", label=f"{d_in} x {n_latents}", markersize=4)
    batch.set(
        xscale="log", yscale="log", xlabel="tokens per call", ylabel="µs per token", title="encode, degree 7, by batch"
    )
    batch.legend(frameon=False, fontsize=8)
    bars = (
        ("dense encode float32", "dense encode", "#D55E00"),
        ("encode d=7", "encode, degree 7", "#0072B2"),
        ("no push d=7", "the same without TopK", "#56B4E9"),
        ("encode d=64", "encode, degree 64", "#009E73"),
    )
    for number, (call, name, color) in enumerate(bars):
        found = of(rows, call)
        x = [place + 0.2 * number for place in range(len(found))]
        share.bar(x, [100 * float(row["share_of_ceiling"]) for row in found], 0.2, color=color, label=name)
    share.set_xticks([place + 0.3 for place in range(len(of(rows, "encode d=7")))])
    share.set_xticklabels([f"{row['d_in']} x\n{row['n_latents']}" for row in of(rows, "encode d=7")], fontsize=8)
    share.set(
        ylabel="% of the ceiling (dense: a matrix product; sparse: what the cache feeds)",
        title="multiply-adds against the ceiling",
    )
    share.set_ylim(0, 95)
    share.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    figure.suptitle(
        f"{rows[0]['cpu']}, {rows[0]['instruction_set']}, {rows[0]['threads']} threads, k = {rows[0]['k']}", fontsize=10
    )
    out = HERE.parent / "docs" / "figures" / "cpu.svg"
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
