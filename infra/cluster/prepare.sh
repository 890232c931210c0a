#!/usr/bin/env bash
# Install what the tests of the runners need: Slurm by apt, the clients of Ray and Kubernetes by pip. What cannot be
# installed here is named, and the tests that need it are skipped with the same words.
set -euo pipefail
python=${1:?the interpreter of the virtual environment}
root=$(cd "$(dirname "$0")/../.." && pwd)

if ! "$python" -c "import ray, kubernetes" 2>/dev/null; then
  echo "test-cluster: installing ray and kubernetes (90 MB) into the virtual environment"
  "$python" -m pip --disable-pip-version-check install --quiet --constraint "$root/infra/requirements.lock" \
    "ray>=2.60" "kubernetes>=37" || echo "test-cluster: without ray and kubernetes; pip install 'polm[ray,kubernetes]'" >&2
fi
if ! command -v slurmctld slurmd munged >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "test-cluster: installing slurm-wlm and munge"
    export DEBIAN_FRONTEND=noninteractive
    { [ -n "$(apt-cache policy slurm-wlm)" ] || apt-get update -qq; } &&
      apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null ||
      echo "test-cluster: without Slurm; as root: apt-get update && apt-get install -y slurm-wlm munge" >&2
  else
    echo "test-cluster: without Slurm; as root: apt-get update && apt-get install -y slurm-wlm munge" >&2
  fi
fi
