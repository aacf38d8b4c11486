"""The pages of the reference that are made from docstrings: one for each room, every name of its `__all__`."""

from importlib import import_module

ROOMS = {
    "expander_sae": "what most people need",
    "expander_sae.saes": "the SAEs",
    "expander_sae.training": "training",
    "expander_sae.distributed": "training over several processes",
    "expander_sae.pursuit": "readings: ways to find codes",
    "expander_sae.activations": "models, text, activations",
    "expander_sae.evaluation": "fidelity",
    "expander_sae.evaluation.meaning": "what latents tell",
    "expander_sae.latents": "what is shown of latents",
    "expander_sae.latents.explain": "explanations",
    "expander_sae.compression": "dense SAEs made sparse",
    "expander_sae.interop": "other libraries' files",
    "expander_sae.graphs": "masks",
    "expander_sae.ops": "kernels",
    "expander_sae.theory": "certificates",
    "expander_sae.frontier.experiments": "experiments",
    "expander_sae.recipes": "models and their sizes",
    "expander_sae.paper": "the paper's numbers",
    "expander_sae.records": "records and files",
}
"""Rooms with public names, in the order of the page; the first is the package itself, which only points to them."""


def homes() -> dict[str, str]:
    """The address under which each public object is described: in the first room that has it, the package last."""
    found: dict[int, str] = {}
    for room in [*list(ROOMS)[1:], "expander_sae"]:
        module = import_module(room)
        for name in module.__all__:
            found.setdefault(_identity(room, name), f"{room}.{name}")
    return {f"{room}.{name}": found[_identity(room, name)] for room in ROOMS for name in import_module(room).__all__}


def pages() -> dict[str, str]:
    """Markdown by file name."""
    address = homes()
    made = {"index.md": _index()}
    for room, words in ROOMS.items():
        names = import_module(room).__all__
        mine = [name for name in names if address[f"{room}.{name}"] == f"{room}.{name}"]
        others = [name for name in names if name not in mine]
        lines = [f"# {room}", "", f"{words[0].upper()}{words[1:]}.", ""]
        if others:
            lines += [
                "Also here: " + ", ".join(f"[`{name}`][{address[f'{room}.{name}']}]" for name in others) + ".",
                "",
            ]
        for name in mine:
            lines += [f"::: {room}.{name}", ""]
        made[file_of(room)] = "\n".join(lines)
    return made


def file_of(room: str) -> str:
    """The file of a room's page."""
    return f"{room.removeprefix('expander_sae').lstrip('.').replace('.', '-') or 'expander_sae'}.md"


def _index() -> str:
    rows = [f"| [`{room}`]({file_of(room)}) | {words} |" for room, words in ROOMS.items()]
    return "\n".join(["# API", "", "Every public name, from its docstring.", "", "| room | |", "|---|---|", *rows, ""])


def _identity(room: str, name: str) -> int:
    """The same object under two names has one description; small constants may be one object by chance."""
    found = getattr(import_module(room), name)
    return id(found) if callable(found) else hash((room, name))
