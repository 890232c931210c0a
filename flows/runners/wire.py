"""What a stage on another machine says: its log, line by line, and between the lines what is meant for `polm run`.

Every engine can hand on a program's output, and not every one has a folder that both sides see. So all of it goes
through the output: a line that begins with the mark is JSON, every other one belongs to the log.
"""

import json
import sys
import threading
from typing import Any

MARK = "\x1epolm "
"""Beginning of a line that is not of the log: ASCII's record separator, which no log has by chance."""
PARTS = ("code", "inputs", "wait", "stage", "push", "restore")
"""What the time of a stage on another machine goes to, in the order of a table."""
_writing = threading.Lock()


def tell(**values: Any) -> None:
    """Write one message to the standard output; threads do not mix their lines."""
    write(f"{MARK}{json.dumps(values)}\n")


def write(text: str) -> None:
    """Write whole lines of the log to the standard output."""
    with _writing:
        sys.stdout.write(text)
        sys.stdout.flush()


def heard(line: str) -> dict[str, Any] | None:
    """Return the message that a line is; None for a line of the log."""
    start, mark, text = line.partition(MARK)
    if start or not mark:
        return None
    message: dict[str, Any] = json.loads(text)
    return message
