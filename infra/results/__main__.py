"""Write the tables of `tiny` in docs/results.md from the artifacts of a whole run.

    polm run --recipe tiny
    make results                # or: python -m infra.results --artifacts artifacts --page docs/results.md

Runs in the root of the repository. Exits 2 when an artifact, or a marker of the page, is missing; then the page stays
as it was.
"""

import argparse
import sys
from pathlib import Path

from infra.results.artifacts import Artifacts
from infra.results.page import fill
from tasks.stage.errors import PolmError

PARAMS = Path("params/tiny")
"""The recipe whose figures the page shows."""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="outputs of the run")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"), help="page to write in place")
    args = parser.parse_args()
    try:
        before = args.page.read_text(encoding="utf-8")
        artifacts = Artifacts(args.artifacts, PARAMS)
        after = fill(before, str(args.page), artifacts)
    except PolmError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    args.page.write_text(after, encoding="utf-8")
    for notice in artifacts.left_out:
        sys.stdout.write(f"{notice}\n")
    sys.stdout.write(f"{args.page}: {'written anew' if after != before else 'as the artifacts say, nothing changed'}\n")


if __name__ == "__main__":
    main()
