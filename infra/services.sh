#!/usr/bin/env bash
# The shared services on this machine's loopback: PostgreSQL, an S3 store, MLflow, Prefect. See docs/services.md.
#   infra/services.sh start|status|stop|destroy
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${POLM_PYTHON:-.venv/bin/python}" -m infra.services "$@"
