"""What the site says of itself: every public name, every option, every number of prose, and no page astray."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from expander_sae import DenseTopKSae, ExpanderSae, IrregularSae

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path[:0] = [str(ROOT / "dev" / "site"), str(ROOT / "benchmarks")]

import api  # noqa: E402
import command_line  # noqa: E402
import links  # noqa: E402
import record_pages  # noqa: E402


def public_rooms():
    """Every package that has an `__all__` which is for users: the package, its rooms, and rooms of those."""
    found = set()
    for path in (ROOT / "src" / "expander_sae").rglob("__init__.py"):
        name = ".".join(("expander_sae", *path.parent.relative_to(ROOT / "src" / "expander_sae").parts))
        if "__all__" in path.read_text(encoding="utf-8"):
            found.add(name)
    return found


def test_every_public_name_has_its_place_in_the_reference():
    inner = {"expander_sae.training.parts", "expander_sae.latents.building"}
    inner |= {room for room in public_rooms() if room.startswith("expander_sae.ops.")}
    assert set(api.ROOMS) == public_rooms() - inner
    pages = api.pages()
    shown = {name for page in pages.values() for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    pointed = {name for page in pages.values() for name in re.findall(r"\]\[(\S+?)\]", page)}
    assert pointed <= shown
    homes = api.homes()
    for room in api.ROOMS:
        names = importlib.import_module(room).__all__
        assert len(set(names)) == len(names)
        for name in names:
            assert homes[f"{room}.{name}"] in shown, f"{room}.{name}"
            assert name in pages[api.file_of(room)]


def test_every_verb_and_option_is_on_the_page_of_the_command_line():
    page = command_line.page()
    for name, verb in command_line.verbs().items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for one in verb.params:
            if one.param_type_name == "option" and one.name != "help":
                assert all(f"`{option}`" in section for option in one.opts), (name, one.name)
                assert not one.help or " ".join(one.help.split())[:20].replace("|", "\\|") in section, (name, one.name)


def test_commands_by_hand_know_every_verb():
    by_hand = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    for name in command_line.verbs():
        assert re.search(rf"expander-sae {name}\b", by_hand), name


@pytest.mark.parametrize(
    "sae",
    [
        ExpanderSae(d_in=16, n_latents=32, degree=4, k=4, latent_bias=True, tied=False),
        IrregularSae.averaging(4, d_in=16, n_latents=32, k=4),
        DenseTopKSae(d_in=16, n_latents=32, k=4, tied=False, latent_bias=True),
    ],
    ids=lambda sae: sae.kind,
)
def test_file_formats_name_every_field_and_array(sae, tmp_path):
    sae.save(tmp_path)
    page = (DOCS / "reference" / "file-formats.md").read_text(encoding="utf-8")
    for name in json.loads((tmp_path / "config.json").read_text(encoding="utf-8")):
        assert f"`{name}`" in page, name
    with safe_open(tmp_path / "sae.safetensors", "pt") as arrays:
        for name in arrays.keys():  # noqa: SIM118  # no mapping
            assert f"`{name}`" in page, name


def test_every_record_has_a_page_with_its_tables():
    results = DOCS / "results"
    names = {path.stem for path in results.glob("*.json") if json.loads(path.read_text("utf-8")).get("experiment")}
    assert set(record_pages.names()) == names
    assert len(names) > 50
    page = record_pages.page_of("smollm2-135m-layer14-k64")
    assert "| full dense |" in page
    assert "](../../figures/fvu_by_learned_values_k64.svg)" in page


def test_links_that_lead_nowhere_or_outside_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a id="x" href="b.html#y">b</a><a href="https://example.org">out</a><img src="data:image/png;base64,">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#x">a</a><a href="a.html#z">a</a><a href="c.html">c</a>')
    (tmp_path / "c.htm").write_text("")
    assert list(links.complaints(tmp_path)) == [
        "a.html: no anchor b.html#y", "b.html: no anchor a.html#z", "b.html: no c.html",
    ]  # fmt: skip
    (tmp_path / "b.html").write_text('<p id="y"><script src="https://example.org/x.js"></script>')
    assert list(links.complaints(tmp_path)) == ["b.html: asks outside for https://example.org/x.js"]


def test_links_between_documents_lead_somewhere():
    """Without building: files of every document's links, and of the README's."""
    made = {"command-line.md", "api/index.md", "records/index.md"}
    for path in [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not any(target.endswith(one) for one in made) and "records/" not in target:
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_the_navigation_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    inside = set(re.findall(r"^ +- (?:[^\n]*: )?(\S+\.(?:md|py))$", text.partition("\nnav:\n")[2], re.MULTILINE))
    pages = {path.relative_to(DOCS).as_posix() for ending in ("*.md", "*.py") for path in DOCS.rglob(ending)}
    assert inside == pages


def test_the_version_is_said_once():
    version = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE) == version
    assert f"## {version[0]}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_a_short_map_for_language_models_leads_to_pages_that_are_there():
    """`llms.txt` names built pages; each has its source, or is made."""
    text = (DOCS / "llms.txt").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert len(targets) >= 12
    for target in targets:
        source = target.removesuffix(".html")
        made = ("reference/api/index", "reference/command-line")
        assert source in made or any((DOCS / f"{source}{ending}").is_file() for ending in (".md", ".py")), target


def claims():
    """The pages of the eight claims, in the order of their numbers."""
    paths = [path for path in (DOCS / "results").glob("*.md") if re.match(r"# \d\. ", path.read_text("utf-8"))]
    return sorted(paths, key=lambda path: path.read_text("utf-8")[:4])


def test_there_are_eight_claims_and_the_overview_leads_to_each():
    assert [path.read_text("utf-8")[2] for path in claims()] == list("12345678")
    overview = (DOCS / "results" / "index.md").read_text("utf-8")
    assert re.findall(r"^\| \d \| \[.*\]\((\S+\.md)\)", overview, re.MULTILINE) == [path.name for path in claims()]


@pytest.mark.parametrize("path", claims(), ids=lambda path: path.stem)
def test_a_claim_has_a_number_a_figure_a_verdict_a_small_table_and_its_records(path):
    text, _, more = path.read_text(encoding="utf-8").partition("<details")
    _, number, *rest = [part for part in text.split("\n\n") if part.strip()]
    assert re.match(r"\*\*[^*]*\d[^*]*\*\*|\*\*Half ", number)  # in bold, and first
    assert any("**Verdict" in part for part in rest)
    assert "![" in text
    assert re.search(r"\]\((records/[\w-]+\.md|\.\./reference/kernels\.md)\)", text)
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 1
    assert len(tables[0].splitlines()) - 2 <= 8
    assert more.rstrip().endswith("</details>")
    assert not re.search(r"-(b1024|onebatch|tuning)", text + more)  # no page mixes two rules of training
