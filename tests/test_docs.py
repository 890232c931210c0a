"""The documentation against the code: commands, targets and files that it names are there."""

import re
from pathlib import Path

import pytest
import typer.main

from tasks.stage import own, recipe
from tests.conftest import REPO

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(?:\w*)\n(.*?)```", re.S)


def commands(text: str) -> list[list[str]]:
    """Every `polm …` of a page's code blocks and code spans, as words, comments left out."""
    spans = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    spans += re.findall(r"`(polm [^`\n]+)`", BLOCK.sub("", text))
    parts = [part.partition("#")[0] for span in spans for part in re.split(r"[;|&]+", span)]
    return [part.split() for part in parts if part.strip().startswith("polm ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    from flows.cli import app

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for words in commands(page.read_text(encoding="utf-8")):
        name = words[1]
        if name == "--help":
            continue
        assert name in known, f"{page.name}: polm {name}"
        options = {option for parameter in known[name].params for option in parameter.opts}
        for word in words[2:]:
            assert not word.startswith("--") or word in options | {"--help"}, f"{page.name}: {' '.join(words)}"


def test_the_pages_name_commands() -> None:
    assert len(commands((REPO / "README.md").read_text(encoding="utf-8"))) > 8


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in PAGES:
        used = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M))
        assert used <= targets, page.name


def test_the_file_tree_of_the_readme_is_true() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    tree = BLOCK.findall(readme[readme.index("## Files") :])[0]
    named = set(re.findall(r"[\w.]+(?:\.(?:py|yaml)\b|/)", tree))
    for package in ("tasks", "flows"):
        files = {p.name for p in (REPO / package).glob("*.py")} - {"__init__.py"}
        rooms = {f"{p.parent.name}/" for p in (REPO / package).glob("*/__init__.py")}
        assert len(files) > 2 and len(rooms) > 5
        assert (files | rooms) - named == set(), f"{package}/ has what the README's tree leaves out"
    places = (*(REPO / name for name in ("tasks", "flows", "params", "mlflow")), REPO)
    there = {p.name for place in places for p in place.glob("*.*")}
    there |= {f"{p.name}/" for place in places for p in place.glob("*") if p.is_dir()}
    assert named - there - {"eval/", "faults/"} == set(), "the README's tree names what is not there"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    links = [
        (page, target, anchor)
        for page in PAGES
        for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8"))
        if target.endswith(".md") or anchor
    ]
    assert len(links) > 8
    for page, target, anchor in links:
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}#{anchor}"


def test_the_pictures_of_the_pages_are_there_and_small() -> None:
    pages = [REPO / "README.md", *(REPO / "docs").glob("*.md")]
    links = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"!\[[^\]]+\]\(([\w./-]+)\)", page.read_text(encoding="utf-8"))
    }
    assert links == {path.resolve() for path in (REPO / "docs/images").iterdir()}
    for link in links:
        content = link.read_bytes()
        assert content.startswith(b"\x89PNG"), link
        assert len(content) <= 300_000, link


def test_the_generator_of_the_data_page_yields_the_same_rows_for_a_seed(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPO / "docs/data.md").read_text(encoding="utf-8"), re.S)
    (tmp_path / "generators.py").write_text(code, encoding="utf-8")
    tickets = own.functions(tmp_path, "generators")["generators.tickets"]
    rows = list(tickets(count=20, seed=1))
    assert len(rows) == 20
    assert {key for row in rows for key in row} == {"question", "reply", "topic"}
    assert rows == list(tickets(count=20, seed=1))
    assert rows != list(tickets(count=20, seed=2))


def test_the_graph_of_the_readme_is_that_of_tiny() -> None:
    graph = recipe.read(REPO / "params/tiny" / recipe.FILE)
    (diagram,) = re.findall(r"```mermaid\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.S)
    solid, dotted = arrows(diagram, list(graph.kinds))
    assert solid == {(model.values["from"], name) for name, model in graph.models.items() if "from" in model.values}
    others = {(parent, name) for name, model in graph.models.items() for parent in model.parents.values()}
    assert dotted == others - solid, "dotted arrows are the inputs besides the parent"


def arrows(diagram: str, models: list[str]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The solid and the dotted arrows of a Mermaid diagram between models, boxes of several models taken apart."""
    boxes = {}
    alone = set(re.findall(r"\w+", diagram))
    for box, title, count in re.findall(r'(\w+)\["(.+?)(?: \((\d+) models\))?"\]', diagram):
        family = [name for name in models if name.startswith(title.rstrip("…")) and name not in alone]
        names = title.split(" · ") if " · " in title else family
        assert not count or len(names) == int(count), title
        boxes[box] = names
    edges: dict[str, set[tuple[str, str]]] = {"-->": set(), "-.->": set()}
    for line in diagram.splitlines():
        parts = re.split(r" (-->|-\.->) ", line.strip())
        ends = [[m for name in re.findall(r"\w+", part) for m in boxes.get(name, [name])] for part in parts[::2]]
        for left, arrow, right in zip(ends, parts[1::2], ends[1:], strict=False):
            edges[arrow] |= {(a, b) for a in left for b in right if a in models and b in models}
    return edges["-->"], edges["-.->"]
