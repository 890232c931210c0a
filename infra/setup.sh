#!/usr/bin/env bash
# Create or refresh a virtual environment with the locked versions. Safe to interrupt: the mark is written last.
# Plain pip on purpose: it takes the torch wheel that fits this machine (CPU or CUDA), which other tools may not see.
set -euo pipefail
venv=${1:?usage: infra/setup.sh VENV}
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "setup: $("$python" --version) is too old, polm needs Python 3.11 or newer; run e.g. 'make setup PYTHON=python3.12'" >&2
  exit 1
fi
started=$SECONDS
echo "setup: installing the locked packages into $venv; the first time takes a few minutes"
rm -f "$venv/ready"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet --quiet --no-compile)
"${pip[@]}" --requirement "$root/infra/requirements.lock"
"${pip[@]}" --no-deps --editable "$root"
# Compiling on all cores is quicker than letting pip do it, and quicker than every first import.
"$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3.*/site-packages >/dev/null 2>&1 || true
if [ -d "$root/.dvc" ] && [ "$(cd "$venv/.." && pwd)" = "$root" ]; then
  # DVC's default site cache is a world-writable folder; keep it inside the working copy.
  (cd "$root" && DVC_NO_ANALYTICS=1 "$root/$venv/bin/dvc" config --quiet --local core.site_cache_dir "$root/.polm/dvc")
fi
touch "$venv/ready"
echo "setup: done in $((SECONDS - started)) s"
