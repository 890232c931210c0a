"""The report's stage on the small tree, and its page as a browser would find it."""

import json
import shutil
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path

from tasks.report import Config, main
from tasks.stage import artifact, recipe
from tasks.stage.config import load
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO
from tests.support import report_tree

TINY = REPO / "params" / "tiny" / "report.yaml"
PARAMS = Path("params/tiny/report.yaml")
"""The tiny recipe's file, beside a graph of the models that the tree has."""
CLAIMS = {"sft": "sums.exact_match", "dpo": "sums.helpful"}


def write_graph(claims: Mapping[str, str], over: Mapping[str, str] | None = None, *more: str) -> None:
    """Write the graph of the tree's models, with these claims and `more` models that were evaluated."""
    keys = {name: {"claim": claim} for name, claim in claims.items()}
    for name, other in (over or {}).items():
        keys[name]["over"] = other
    parents = {"sft": {"sft": "base"}, "dpo": {"dpo": "sft"}, "reward": {"reward": "sft"}, "label": {"label": "sft"}}
    parents["merge"] = dict.fromkeys(more, "sft")
    models = {
        method: {name: {"from": parent} | keys.get(name, {}) for name, parent in names.items()}
        for method, names in parents.items()
    }
    lists = {"evaluate": ["base", "sft", "dpo", *more], "export": ["dpo"], "forms": ["int4"]}
    PARAMS.parent.mkdir(parents=True, exist_ok=True)
    (PARAMS.parent / recipe.FILE).write_text(json.dumps({"recipe": "tiny", **models, **lists}))


def graph(*more: str) -> recipe.Graph:
    """Read the graph of the tree's models, and `more` that were evaluated."""
    write_graph(CLAIMS, None, *more)
    return recipe.read(PARAMS.parent / recipe.FILE)


def build(make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """Write the tree, its settings and its graph into the working directory."""
    write_graph(CLAIMS)
    shutil.copy(TINY, PARAMS)
    report_tree.build(Path(), make_artifact, rows=60)
    return Path("artifacts")


def report(tree: Path, params: Path = PARAMS, out: str = "reports") -> Path:
    """Run the stage's `main` in this process."""
    with artifact.writing(tree / out, stage="report", params="0" * 64, inputs={}) as temp:
        run = Run(temp, params, out, Path(".checkpoints"), {}, Progress(out), main_process=True)
        main(load(params, Config), run, data=tree / "data")
    return tree / out


class Page(HTMLParser):
    """What a browser would find: open tags left over, tags used, addresses asked for, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in ("meta", "br", "img", "line", "path", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        if tag not in ("line", "path", "rect", "circle") or self.open[-1] == tag:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data
