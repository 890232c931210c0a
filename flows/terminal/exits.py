"""How a command ends: the one place where an error becomes a message and an exit code.

0     done
1     a stage failed, or `polm doctor` found what makes a run impossible; with a traceback: a bug
2     something to mend: one message, no traceback
130   interrupted by Ctrl-C or SIGTERM
141   whoever read the output went away, e.g. `polm show | head -1`
"""

import os
import sys
from collections.abc import Callable

from tasks.stage.errors import PolmError, remedy

FAILED, WRONG, INTERRUPTED, UNREAD = 1, 2, 130, 141
"""The exit codes, 0 aside. The last two are those that a shell gives: 128 and the number of the signal."""


def leave(command: Callable[[], object]) -> None:
    """Call the command and leave the process with its exit code."""
    try:
        try:
            command()
        except SystemExit as e:  # typer leaves by it in every case, and rich and typer leave with 1 for a closed pipe
            if e.code == FAILED and isinstance(e.__context__, BrokenPipeError):
                raise e.__context__ from None
            sys.stdout.flush()  # here an error has a message; while the interpreter ends it has none
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _mute()
        sys.exit(UNREAD)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as e:
        message = explain(e)
        if message is None:
            raise
        _say(message)
        sys.exit(WRONG)


def explain(error: Exception) -> str | None:
    """Say what is to be mended; None for a bug.

    Errors of the libraries below are about what is outside of us: the file system, a server, a database.
    """
    if isinstance(error, PolmError):
        return str(error)
    message = remedy(error)
    if message is not None:
        return message
    library = type(error).__module__.split(".")[0]
    if library == "mlflow":
        from flows.services import reach

        uri = reach.shown(os.environ.get("MLFLOW_TRACKING_URI", "the store under .polm/"))
        return f"MLflow at {uri}: {reach.reason(error)}"
    if library in ("prefect", "httpx", "httpcore"):
        from flows.services import reach

        uri = reach.shown(os.environ.get("PREFECT_API_URL", "its own server"))
        return f"Prefect at {uri}: {reach.reason(error)}"
    if library in ("dvc", "dvc_data", "dvc_objects", "scmrepo", "sqlite3", "diskcache"):
        return f"DVC: {str(error).strip() or type(error).__name__}; `polm doctor` looks at its parts"
    return None


def _say(message: str) -> None:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)


def _mute() -> None:
    """Let what is still in the buffers go nowhere, so that the interpreter's end does not fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
