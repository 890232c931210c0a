"""The report's stage on the small tree, and its page as a browser would find it."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from ruamel.yaml import YAML

from tasks.report import Config, main
from tasks.reporting import page
from tasks.stage import artifact
from tasks.stage.config import load, read_yaml
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO
from tests.support import report_tree

TINY = REPO / "params" / "tiny" / "report.yaml"
PARAMS = Path("params/tiny/report.yaml")
"""The tiny recipe's file, with claims of the models that the tree has."""
FOLDERS = page.FOLDERS


def build(make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """Write the tree and its settings into the working directory."""
    settings = read_yaml(TINY) | {"claims": {"sft": "sums.exact_match", "dpo": "sums.helpful"}}
    PARAMS.parent.mkdir(parents=True)
    with PARAMS.open("w") as f:
        YAML(typ="safe").dump(settings, f)
    report_tree.build(Path(), make_artifact, rows=60)
    return Path("artifacts")


def report(tree: Path, params: Path = PARAMS, out: str = "reports") -> Path:
    """Run the stage's `main` in this process."""
    with artifact.writing(tree / out, stage="report", params="0" * 64, inputs={}) as temp:
        run = Run(temp, params, out, Path(".checkpoints"), {}, Progress(out), main_process=True)
        main(load(params, Config), run, **{name: tree / name for name in FOLDERS})
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
