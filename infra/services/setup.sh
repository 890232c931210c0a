#!/usr/bin/env bash
# Install what infra/services.sh starts: Debian's PostgreSQL, and the Python packages of its lock file beside the others.
set -euo pipefail
venv=${1:?usage: infra/services/setup.sh VENV}
lock=$(dirname "$0")/requirements.lock
if ! command -v initdb >/dev/null && ! compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; then
  if [ "$(id -u)" != 0 ]; then
    echo "PostgreSQL is missing; run 'sudo apt-get install postgresql'" >&2
    exit 2
  fi
  export DEBIAN_FRONTEND=noninteractive
  [ -n "$(apt-cache policy postgresql)" ] || apt-get update --quiet --quiet
  apt-get install --quiet --quiet --yes --no-install-recommends postgresql
fi
# Without their dependencies, which the lock files list: nothing that is there is replaced.
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet --quiet --no-deps --requirement "$lock"
