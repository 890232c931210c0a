"""Take a stage's result from the DVC remote, and never make it: `python -m flows.runners.restore STAGE`.

DVC looks the stage up in its run-cache, fetches the output and writes `dvc.lock`, as `dvc repro -s --pull` does. Only
the step that would run the stage's command is replaced by an error: this machine may not be fit for it.
"""

import sys
from typing import Any

from dvc.exceptions import DvcException


def main(stage: str) -> int:
    """Restore a stage; returns DVC's exit code, which is not 0 where the remote does not have the result."""
    import dvc.stage.run
    from dvc.cli import main as dvc_command

    dvc.stage.run.cmd_run = _refuse
    return int(dvc_command(["--wait-for-lock", "repro", "-s", "--pull", stage]))


def _refuse(stage: Any, **_: Any) -> None:
    raise DvcException(
        f"the DVC remote has no result of '{stage.addressing}' for the code, settings and inputs as they are here"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
