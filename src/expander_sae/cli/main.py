"""The `expander-sae` command: one thin verb per file."""

import errno
import io
import itertools
import sys
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from expander_sae.cli import (
    amortise,
    browse,
    certify,
    compress,
    convert,
    demo,
    doctor,
    encode,
    evaluate,
    experiment,
    explain,
    export,
    export_latents,
    features,
    frontier,
    harvest,
    import_,
    offline,
    probe,
    push,
    report,
    serve,
    train,
)
from expander_sae.cli.warned import warnings_in_one_line
from expander_sae.records import ExpanderSaeError
from expander_sae.records.interrupts import ignore_interrupts, make_interruptible, was_interrupted

from .console import errors, visible
from .interrupted import said, say_interrupted, silence

_ENVIRONMENT = tuple(
    getattr(errno, name)
    for name in (
        "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP",
        "EMFILE", "ENFILE",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Errors of the disk and its rights: a user can mend them, wherever they come from."""
_CTRL_C = 130
_BROKEN_PIPE = 141
"""The exit code of a program that SIGPIPE ends."""


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
        """As typer, with our warnings in one line each; the arguments are noted for who says what was interrupted."""
        ctx.find_root().obj = dict(ctx.params)
        with warnings_in_one_line():
            return super().invoke(ctx)


class Verbs(TyperGroup):
    """All verbs: what ends one of them before its time is said in one place."""

    def main(self, *args, **options):  # type: ignore[no-untyped-def]
        """As typer, whose exit code for every interrupt is that of Ctrl-C: one that came while another one was being
        said keeps the first one's code."""
        try:
            return super().main(*args, **options)
        except SystemExit as end:
            stop = was_interrupted()
            if end.code == _CTRL_C and stop is not None:
                raise SystemExit(128 + stop.number) from None
            raise

    def invoke(self, ctx):  # type: ignore[no-untyped-def]
        """As click, but an interrupt says what is kept, and a pipe that nobody reads any more says nothing."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _interrupted(stop, ctx) from None
        except BrokenPipeError:
            silence()
            raise typer.Exit(_BROKEN_PIPE) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception:
            stop = was_interrupted()
            if stop is None:
                raise
            raise _interrupted(stop, ctx) from None


def _interrupted(stop: KeyboardInterrupt, ctx: Any) -> typer.Exit:
    ignore_interrupts()  # the verb has ended: what comes now is the same wish
    params: dict[str, Any] = ctx.find_root().obj or {}
    return typer.Exit(say_interrupted(stop, ctx.invoked_subcommand, params))


app = typer.Typer(
    rich_markup_mode="markdown",
    name="expander-sae",
    cls=Verbs,
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
app.command("features", cls=Verb)(features.features)
app.command("offline", cls=Verb)(offline.offline)
app.command("browse", cls=Verb)(browse.browse)
app.command("serve", cls=Verb)(serve.serve)
app.command("convert", cls=Verb)(convert.convert)
app.command("export", cls=Verb)(export.export)
app.command("import", cls=Verb)(import_.import_)
app.command("compress", cls=Verb)(compress.compress)
app.command("probe", cls=Verb)(probe.probe)
app.command("push", cls=Verb)(push.push)
app.command("explain", cls=Verb)(explain.explain)
app.command("export-latents", cls=Verb)(export_latents.export_latents)
app.command("certify", cls=Verb)(certify.certify)
app.command("demo", cls=Verb)(demo.demo)
app.command("doctor", cls=Verb)(doctor.doctor)


def main() -> None:
    """Run the command line; what a user can mend is one message and exit code 2, an interrupt is 128 and the signal."""
    try:
        make_interruptible()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
        app()
    except KeyboardInterrupt as stop:  # before a verb began, or once it had ended
        sys.exit(say_interrupted(stop, None, {}))
    except SystemExit as end:
        stop = was_interrupted()
        if stop is None or said or not end.code:
            raise
        sys.exit(say_interrupted(stop, None, {}))  # then, too, typer says nothing and has one code for all signals
    except ExpanderSaeError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in _ENVIRONMENT:
            raise
        _fail(f"{error.strerror}{'' if error.filename is None else f': {error.filename}'}")
    finally:
        ignore_interrupts()  # the verb has ended: what is left is to leave
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            silence()
            sys.exit(_BROKEN_PIPE)


def _fail(message: str) -> None:
    try:
        errors().print(Text.assemble(("error:", "bold red"), f" {visible(message)}"))
    except BrokenPipeError:
        silence()
    sys.exit(2)


if __name__ == "__main__":
    main()
