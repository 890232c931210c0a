"""What can go wrong, and whose doing it is.

    PolmError               exit code 2, one message, no traceback
    ├── ConfigError         a recipe file: unknown or missing key, wrong type, impossible value
    ├── DataError           an input row, file or source
    ├── ArtifactError       a stage's output: corrupted, incomplete, or held by another process
    ├── ModelError          a model folder: pickle, remote code, chat template, wrong shapes
    ├── ParityError         an export that does not match the model it was made from
    ├── GateError           a promotion that the registry policy refuses
    ├── StageFailed         a stage's command that ended without its artifact
    └── Stopped             a run that was asked to end

The same goes for a system that refuses a file or has no room for it: `refusal` says which and what to do. Anything else
that escapes a stage is a bug and keeps its traceback (exit code 1).
"""

import errno
import os
import re
import stat
from pathlib import Path

_NO_ROOM = {
    errno.ENOSPC: "the disk is full; free some space and run again, nothing was lost",
    errno.EDQUOT: "your quota of the disk is used up; free some space and run again, nothing was lost",
    errno.EFBIG: "larger than a file may be here (see `ulimit -f`); raise the limit and run again, nothing was lost",
    errno.EROFS: "the file system is read-only; work in a copy that you can write",
}
_REFUSED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EEXIST: "a file stands where a folder is expected; move it away",
    errno.EISDIR: "a folder stands where a file is expected; move it away",
    errno.ENOTDIR: "a file stands where a folder is expected; move it away",
    errno.ELOOP: "a loop of symbolic links; remove it",
    errno.ENAMETOOLONG: "the name is too long for the file system; shorten it",
}
_TORN = re.compile(r"inline_container\.cc:\d+\] \. unexpected pos|PytorchStreamWriter failed")
"""What `torch.save` raises, as a RuntimeError, where the system did not take all that it wrote."""


class PolmError(Exception):
    """Base of every error that the user can act on. The message says what, why, and what to do."""


class ConfigError(PolmError):
    """A recipe file is wrong."""


class DataError(PolmError):
    """Input data are wrong."""


class ArtifactError(PolmError):
    """A stage's output is missing, corrupted, or being written by somebody else."""


class ModelError(PolmError):
    """A model folder cannot be used, or must not be."""


class ParityError(PolmError):
    """An exported model does not answer like the model it was made from."""


class GateError(PolmError):
    """A promotion was refused."""


class StageFailed(PolmError):
    """A stage did not produce its artifact."""

    def __init__(self, reason: str, log: Path, line: int, text: str, retry: bool) -> None:
        """Keep what the summary of a run shows.

        Args:
            reason: how it ended, e.g. `failed with exit code 1`.
            log: file with its output.
            line: number of the line in it that says why, from 1.
            text: that line; empty where there is none.
            retry: whether trying again may help.
        """
        super().__init__(f"{reason}: {text} ({log}:{line})" if text else f"{reason} ({log}:{line})")
        self.reason = reason
        self.log = log
        self.line = line
        self.text = text
        self.retry = retry


class Stopped(PolmError):
    """The user, or the system, asked the whole run to end."""


def refusal(error: Exception) -> str | None:
    """Say which file or folder the system refused, and what to do; None for an error that no user can mend.

    A write to a full disk does not say which file it was for: then the folders are named that have no room. Libraries
    in Rust (safetensors, tokenizers) raise errors of their own, which end with the system's number: `(os error 28)`.
    `torch.save` says that its archive has another length than it wrote, and not why.
    """
    if not isinstance(error, OSError):
        if _TORN.search(str(error)):
            return (
                f"{_crammed()}: torch could not write all of a file: no room is left on the disk, or a file may not be "
                f"as large here (see `ulimit -f`); make room and run again, nothing was lost"
            )
        match = re.search(r"\(os error (\d+)\)", str(error))
        return refusal(OSError(int(match[1]), os.strerror(int(match[1])))) if match else None
    number = error.errno or 0
    if number in _NO_ROOM:
        return f"{error.filename or _crammed()}: {_NO_ROOM[number]}"
    if error.filename is None or number not in _REFUSED:
        return None
    if number == errno.EEXIST and not isinstance(error.filename, int) and Path(os.fsdecode(error.filename)).is_dir():
        return None
    if number in (errno.EACCES, errno.EPERM):
        return f"{error.filename}: {_REFUSED[number]}; {_owner(error.filename)}"
    return f"{error.filename}: {_REFUSED[number]}"


def remedy(error: Exception) -> str | None:
    """Say what is to be mended on this machine: a file that is missing, or what `refusal` knows; None for the rest."""
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return f"{error.strerror}; set TMPDIR to a folder that can be written"  # `tempfile` found none
    if isinstance(error, FileNotFoundError) and not str(error.filename).startswith(("/", ".polm", "artifacts")):
        return f"{error.filename}: no such file; restore it with `git checkout {error.filename}`"
    message = refusal(error)
    if message is None and "disk is full" in str(error):  # SQLite's words, below DVC and MLflow; they name no file
        return refusal(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return message


def kind(path: Path) -> str:
    """Say in words what stands at a path: `a file`, `a folder`, `a symbolic link to x, which does not exist`, …"""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"a symbolic link to {path.readlink()}, which does not exist" if path.is_symlink() else "missing"
    except OSError as e:
        return "a loop of symbolic links" if e.errno == errno.ELOOP else f"out of reach ({e.strerror})"
    names = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(mode), "a device")


def _owner(name: str | bytes | int) -> str:
    """Say of the nearest part of a path that exists whose it is, and who asks."""
    path = Path("." if isinstance(name, int) else os.fsdecode(name)).absolute()
    nearest = next((p for p in (path, *path.parents) if os.path.lexists(p)), Path("/"))
    status, me = nearest.lstat(), os.geteuid()
    if status.st_uid == me:
        return f"the mode of {nearest} ({stat.filemode(status.st_mode)}) forbids it: `chmod u+rwX {nearest}`"
    owner, user = _user(status.st_uid), _user(me)
    return f"{nearest} belongs to user {owner} and this is user {user}: work as that user, or in a copy of your own"


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _crammed() -> str:
    """Name the folders that we write to and that have no room left."""
    full = []
    for place in (".", ".polm", "artifacts", ".dvc", os.environ.get("TMPDIR", "/tmp")):
        try:
            free = os.statvfs(place)
        except OSError:
            continue
        if free.f_bavail * free.f_frsize < 1_000_000 or free.f_favail == 0 < free.f_files:
            full.append(str(Path(place).resolve()))
    return ", ".join(dict.fromkeys(full)) or "a file, or the standard output"
