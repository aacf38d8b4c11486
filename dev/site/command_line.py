"""The page of every verb and option, from what `--help` says."""

from typing import Any

from typer.main import get_command

from expander_sae.cli.main import app

LAST = ("help", "install_completion", "show_completion")


def verbs() -> dict[str, Any]:
    """The commands of `expander-sae` by name."""
    return dict(sorted(get_command(app).commands.items()))  # type: ignore[attr-defined]


def page() -> str:
    """Markdown, a section for each verb."""
    lines = [
        "# Command line",
        "",
        "What `--help` says of every verb. [Commands](commands.md) has them in the order of use.",
        "",
    ]
    for name, verb in verbs().items():
        arguments = [_metavar(one) for one in verb.params if one.param_type_name == "argument"]
        lines += [
            f"## {name}",
            "",
            _text(verb.help or ""),
            "",
            "```sh",
            " ".join(["expander-sae", name, *arguments, "[OPTIONS]"]),
            "```",
            "",
        ]
        lines += ["| option | default | |", "|---|---|---|"]
        for one in verb.params:
            if one.name not in LAST:
                lines.append(f"| {_names(one)} | {_default(one)} | {_cell(one.help or '')} |")
        lines.append("")
    return "\n".join(lines)


def _metavar(one: Any) -> str:
    shown = (
        one.name.upper() + ("..." if one.nargs == -1 or one.multiple_values else "")
        if hasattr(one, "multiple_values")
        else one.name.upper() + ("..." if one.nargs == -1 else "")
    )
    return shown if one.required else f"[{shown}]"


def _names(one: Any) -> str:
    if one.param_type_name == "argument":
        return f"`{_metavar(one)}`"
    return ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))


def _default(one: Any) -> str:
    if isinstance(one.show_default, str):
        return _cell(one.show_default)
    value = one.default
    if one.required or value is None or value == () or callable(value) or type(value).__name__ == "Sentinel":
        return "*needed*" if one.required else ""
    return f"`{getattr(value, 'value', value)}`"


def _text(text: str) -> str:
    return text.replace("\b", "").replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(_text(text).replace("|", "\\|").split())
