"""What of a machine may change the bits of a result: its processor, its Python, its packages, its environment.

A stage's node says these of itself; `polm run` compares them with its own and names what differs. Values of variables
do not travel, only their digests.
"""

import hashlib
import os
import platform
import re
from collections.abc import Collection
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

LOCK = Path("infra/requirements.lock")
RELEVANT = re.compile(
    r"(OMP|MKL|OPENBLAS|BLIS|RAYON|POLARS|ATEN|DNNL|ONEDNN|TORCH|PYTORCH|CUDA|CUBLAS|NVIDIA_TF32|NCCL|ACCELERATE"
    r"|TRANSFORMERS|TOKENIZERS|HF|POLM|DVC|PYTHON|VLLM)_?[A-Z0-9_]*|LD_PRELOAD|LANG|LC_\w+|TZ"
)
"""Names of variables that may change what a stage computes or reads."""
OWN = re.compile(
    r"(OMP|MKL|OPENBLAS|RAYON)_NUM_THREADS|CUDA_VISIBLE_DEVICES|POLM_(EVENTS|WARM\w*)|DVC_\w+|PYTHON(UNBUFFERED|PATH"
    r"|DONTWRITEBYTECODE)|HF_HUB_(DISABLE_TELEMETRY|DISABLE_PROGRESS_BARS)|LC_ALL|LANG|LC_\w+"
)
"""Those of them that a stage sets itself, or an engine, or that change no bits."""
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|KEY")


def locked() -> list[str]:
    """Return the names of the packages in the lock file; none where there is no such file."""
    return re.findall(r"^([\w.-]+)==", LOCK.read_text(encoding="utf-8"), re.M) if LOCK.exists() else []


def facts(packages: Collection[str] | None = None) -> dict[str, Any]:
    """Return what may change bits here.

    Args:
        packages: names that are looked for; None: those of the lock file.

    Returns:
        `host`; `processor`, its model; `python`, a version; `packages`, name to version of each of these that is
        installed; `variables`, name to a digest of the value, without secrets.
    """
    names = {normal(name) for name in (locked() if packages is None else packages)}
    installed = {normal(found.metadata["Name"] or ""): found.version for found in distributions()}
    return {
        "host": platform.node(),
        "processor": _processor(),
        "python": platform.python_version(),
        "packages": {name: version for name, version in sorted(installed.items()) if name in names},
        "variables": {
            name: hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:12]
            for name, value in sorted(os.environ.items())
            if RELEVANT.fullmatch(name) and not OWN.fullmatch(name) and not SECRET.search(name)
        },
    }


def title(there: dict[str, Any]) -> str:
    """Write a node's name, Python and processor in a line."""
    return f"node: {there['host']}, Python {there['python']}, {there['processor']}"


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Compare the `facts` of two machines; returns a sentence for each kind of thing that is another one there."""
    said = []
    for key, what in (("processor", "processor"), ("python", "Python")):
        if here[key] != there[key]:
            said.append(f"another {what}: {there[key]}, here {here[key]}; results may differ")
    packages = [
        f"{name} {version} (here {here['packages'][name]})"
        for name, version in there["packages"].items()
        if here["packages"].get(name, version) != version
    ]
    if packages:
        more = f" and {len(packages) - 6} more" if len(packages) > 6 else ""
        said.append(f"other packages: {', '.join(packages[:6])}{more}; install infra/requirements.lock on both sides")
    ours, theirs = here["variables"], there["variables"]
    if unsent := sorted(ours.keys() - theirs.keys()):
        said.append(f"set here and not there: {', '.join(unsent)}; `environment:` of the runner passes variables on")
    if foreign := sorted(theirs.keys() - ours.keys()):
        said.append(f"set there and not here: {', '.join(foreign)}; unset them there, or set them here")
    if other := sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]):
        said.append(f"of another value there: {', '.join(other)}; `environment:` of the runner passes variables on")
    return said


def normal(name: str) -> str:
    """Write a package's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _processor() -> str:
    """Read the processor's model; the architecture where the system does not tell it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
