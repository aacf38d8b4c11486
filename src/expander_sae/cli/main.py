"""The `expander-sae` command: one thin verb per file."""

import itertools
import sys

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand

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
from expander_sae.cli.warned import warnings_in_one_line
from expander_sae.records import ExpanderSaeError


class Verb(TyperCommand):
    """A command that does not take the name of an option for the value of the option before it."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]  # the types are those of the click in typer
        """As typer, but `--json --quiet` is a missing file name and not a file named `--quiet`.

        Raises:
            ExpanderSaeError: an option has another option where its value should be.
        """
        takes_value = {
            name: not (getattr(param, "is_flag", False) or getattr(param, "count", False))
            for param in self.params
            for name in (*param.opts, *param.secondary_opts)
            if name.startswith("-")
        }
        for option, value in itertools.pairwise(itertools.takewhile(lambda text: text != "--", args)):
            if takes_value.get(option) and value in takes_value:
                raise ExpanderSaeError(f"expected a value after {option}; got the option {value}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx):  # type: ignore[no-untyped-def]
        """As typer, with our warnings in one line each."""
        with warnings_in_one_line():
            return super().invoke(ctx)


app = typer.Typer(
    rich_markup_mode="markdown",
    name="expander-sae",
    help="Train, evaluate and compare sparse autoencoders whose dictionary is sparse itself (arXiv 2607.01799).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("harvest", cls=Verb)(harvest.harvest)
app.command("train", cls=Verb)(train.train)
app.command("eval", cls=Verb)(evaluate.evaluate)
app.command("frontier", cls=Verb)(frontier.frontier)
app.command("experiment", cls=Verb)(experiment.experiment)
app.command("report", cls=Verb)(report.report)
app.command("amortise", cls=Verb)(amortise.amortise)
app.command("encode", cls=Verb)(encode.encode)
app.command("offline", cls=Verb)(offline.offline)
app.command("convert", cls=Verb)(convert.convert)
app.command("export", cls=Verb)(export.export)
app.command("import", cls=Verb)(import_.import_)
app.command("compress", cls=Verb)(compress.compress)
app.command("push", cls=Verb)(push.push)
app.command("certify", cls=Verb)(certify.certify)
app.command("demo", cls=Verb)(demo.demo)
app.command("doctor", cls=Verb)(doctor.doctor)


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
