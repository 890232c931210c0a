"""The exclusive lock of a file: one writer, one run, one promotion at a time, and none outlives its process."""

import fcntl
from typing import IO, Any

from tasks.stage.errors import ArtifactError


def acquire(file: IO[Any], *, wait: bool = False) -> bool:
    """Take the exclusive lock of an open file; the system lets go of it when the file is closed, or the process ends.

    Args:
        file: the open file, in any mode.
        wait: whether to wait, for as long as it takes, until another process lets go of it.

    Returns:
        Whether the lock is ours; with `wait` it always is.

    Raises:
        ArtifactError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        raise ArtifactError(f"{file.name}: cannot be locked ({e.strerror}); work on a file system with locks") from None
    return True
