"""The state of the working copy in git, which runs and promotions record."""

import os
import re
import subprocess


def git_state() -> dict[str, str]:
    """Read `{"commit", "dirty"}` of the working directory; `none` and `true` where there is no commit to go back to.

    Then there is also `git_error`: git's own words, and what to do.
    """
    head = _run("rev-parse", "--verify", "HEAD")
    status = _run("status", "--porcelain", "--untracked-files=normal")
    if head.returncode:
        return {"commit": "none", "dirty": "true", "git_error": _remedy(head.stderr)}
    if status.returncode:  # nothing said is not nothing changed
        return {"commit": head.stdout.strip(), "dirty": "true", "git_error": _remedy(status.stderr)}
    return {"commit": head.stdout.strip(), "dirty": str(bool(status.stdout.strip())).lower()}


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run git, in English; a program that cannot be started looks like one that failed."""
    command = ["git", *arguments]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        )
    except FileNotFoundError:
        why = "git is not installed; install it: promotion records a commit"
    except OSError as e:
        why = f"git cannot be started ({e.strerror}); mend its installation"
    return subprocess.CompletedProcess(command, 127, "", why)


def _remedy(stderr: str) -> str:
    """Say in one line what git said first, and what to do about it."""
    lines = stderr.strip().splitlines()
    first = next((line for start in ("fatal: ", "error: ") for line in lines if line.startswith(start)), stderr.strip())
    first = first.removeprefix("fatal: ").removeprefix("error: ").strip()
    command = re.search(r"git config --global --add safe\.directory .+", stderr)
    if command:
        return f"{first}; if you trust it: `{command[0]}`"
    if "not a git repository" in first:
        return f"{first}; `git init && git add -A && git commit`: promotion records a commit"
    if "Needed a single revision" in first:
        return "no commit; `git add -A && git commit`: promotion records a commit"
    return first or "git failed and said nothing"
