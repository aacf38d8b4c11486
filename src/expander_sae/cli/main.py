"""The `expander-sae` command: one thin verb per file."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from expander_sae.cli import (
    amortise,
    certify,
    compress,
    convert,
    demo,
    doctor,
    encode,
    evaluate,
    experiment,
    export,
    frontier,
    harvest,
    import_,
    offline,
    push,
    report,
    train,
)
from expander_sae.records import ExpanderSaeError

app = typer.Typer(
    rich_markup_mode="markdown",
    name="expander-sae",
    help="Train, evaluate and compare sparse autoencoders whose dictionary is sparse itself (arXiv 2607.01799).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("harvest")(harvest.harvest)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("frontier")(frontier.frontier)
app.command("experiment")(experiment.experiment)
app.command("report")(report.report)
app.command("amortise")(amortise.amortise)
app.command("encode")(encode.encode)
app.command("offline")(offline.offline)
app.command("convert")(convert.convert)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("compress")(compress.compress)
app.command("push")(push.push)
app.command("certify")(certify.certify)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line; what a user can mend is one message and exit code 2, an interrupt is 130."""
    try:
        app()
    except ExpanderSaeError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        # Shapes in messages look like markup: escape them.
        console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; nothing is lost, the same command goes on from here", highlight=False)
        sys.exit(130)


if __name__ == "__main__":
    main()
