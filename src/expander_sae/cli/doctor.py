"""`expander-sae doctor`: what runs here, and does it run right."""

import platform
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from expander_sae.records import ExpanderSaeError, write_json
from expander_sae.records.versions import package_version

from .console import output

_PACKAGES = ("expander-sae", "torch", "numpy", "transformers", "tokenizers", "safetensors", "datasets", "triton")


def doctor(
    json: Annotated[Path | None, typer.Option(help="Also write what was found as JSON to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No tables.")] = False,
) -> None:
    """Show versions, threads, instruction set and backends, and run a self-test of about ten seconds.

    Exit code 2 means that a backend disagrees with the reference; report that with the output.
    """
    from expander_sae.ops import selftest  # torch takes seconds to import

    console = output(json, quiet=quiet, soft_wrap=False)
    facts = {"python": f"{platform.python_version()} on {platform.platform()}"}
    facts |= {name: package_version(name) for name in _PACKAGES} | selftest.native_facts()
    for name, reason in selftest.usable_backends().items():
        facts[name] = "can run" if reason is None else f"cannot run: {reason}"
    console.print(_table("This machine", facts))
    checks = selftest.run_checks()
    console.print(_table("Self-test", {c.name: f"{'passed' if c.passed else 'FAILED'} ({c.detail})" for c in checks}))
    times = selftest.timings()
    shown = {name: f"{microseconds:,.1f} µs per token" for name, microseconds in times.items()}
    console.print(_table("Encode at d_in 2048, n_latents 32768, degree 7, k 32 (CPU)", shown))
    if json is not None:
        record = {"facts": facts, "checks": [c._asdict() for c in checks], "microseconds_per_token": times}
        write_json(json, record)
    failed = [check.name for check in checks if not check.passed]
    if failed or not checks:
        raise ExpanderSaeError(
            f"self-test: {', '.join(failed)} failed; do not trust results from this machine"
            if failed
            else "only the slow reference can run here: the C++ core is missing. Reinstall with a C++20 compiler."
        )


def _table(title: str, rows: dict[str, str]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, value)
    return table
