#!/usr/bin/env bash
# A Ray cluster of two nodes in a network namespace that has loopback alone, for tests: Ray listens on 0.0.0.0 whatever
# address a node is given, so outside of one every neighbour could reach it. Needs root.
#
#   infra/cluster/ray.sh start DIR PYTHON    nodes with the resources polm-n1 and polm-n2; logs in DIR
#   infra/cluster/ray.sh inside DIR COMMAND  run a command in the namespace; the address there is 127.0.0.1:26379
#   infra/cluster/ray.sh lose DIR NODE       kill -9 of a node's processes of Ray; what a task had started is left
#   infra/cluster/ray.sh stop DIR            end everything
set -euo pipefail
action=${1:?start, inside, lose or stop}
dir=$(mkdir -p "${2:?a folder}" && cd "$2" && pwd)
export RAY_USAGE_STATS_ENABLED=0

if [ "$(id -u)" != 0 ] || ! command -v unshare nsenter ip >/dev/null; then
  echo "ray.sh: needs root, and unshare, nsenter and ip: apt-get install -y util-linux iproute2" >&2
  exit 3
fi
inside() { nsenter --net --target "$(cat "$dir/namespace.pid")" "$@"; }

# Processes of the namespace, its holder excepted.
members() {
  local mine
  mine=$(readlink "/proc/$(cat "$dir/namespace.pid")/ns/net")
  for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/ns/net" 2>/dev/null)" = "$mine" ]; then basename "$process"; fi
  done | grep -vx "$(cat "$dir/namespace.pid")" || true
}

node() {
  # Ports that are given need not be waited for either.
  local name=$1 ports=()
  local first=$2
  shift 2
  for agent in metrics-export-port dashboard-agent-grpc-port dashboard-agent-listen-port runtime-env-agent-port; do
    ports+=("--$agent=$((first++))")
  done
  # The agent must be up in a time that cannot be set, else the node ends: on a busy machine it needs to come first.
  setsid nsenter --net --target "$(cat "$dir/namespace.pid")" nice -n -15 "$python" -m ray.scripts.scripts start --block --disable-usage-stats --num-cpus=2 --num-gpus=0 \
    --object-store-memory=80000000 --resources="{\"$name\": 1, \"polm\": 1}" "${ports[@]}" "$@" \
    >"$dir/$name.out" 2>&1 </dev/null &
  echo $! >"$dir/$name.pid"
}

# Wait for a node; false when it gave up.
up() {
  while kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null; do
    if grep -qs "Ray runtime started" "$dir/$1.out"; then return 0; fi
    sleep 0.2
  done
  return 1
}

case $action in
start)
  python=${3:?the interpreter that has ray}
  "$python" -c "import ray" 2>/dev/null || { echo "ray.sh: ray is missing; $python -m pip install 'polm[ray]'" >&2; exit 3; }
  setsid unshare --net sleep 3600 </dev/null >/dev/null 2>&1 &
  echo $! >"$dir/namespace.pid"
  while [ "$(readlink "/proc/$!/ns/net")" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
  inside ip link set lo up
  for _ in 1 2 3; do
    node polm-n1 26400 --head --include-dashboard=false --port=26379 --node-ip-address=127.0.0.1 --temp-dir="$dir/ray"
    if up polm-n1; then break; fi
  done
  for _ in 1 2 3; do
    node polm-n2 26410 --address=127.0.0.1:26379 --node-ip-address=127.0.0.2
    if up polm-n2; then exit 0; fi
  done
  echo "ray.sh: the nodes did not come up three times; see $dir/*.out" >&2
  exit 1
  ;;
inside)
  shift 2
  inside "$@"
  ;;
lose)
  # The raylet and its workers end; the worker's children are left behind, as after a crash of Ray on that node.
  leader=$(cat "$dir/${3:?a node}.pid")
  daemons=$(pgrep -P "$leader" | tr '\n' ',')
  workers=$(pgrep -P "${daemons%,}" || true)
  for pid in "$leader" ${daemons//,/ } $workers; do kill -9 "$pid" 2>/dev/null || true; done
  ;;
stop)
  if [ -f "$dir/namespace.pid" ]; then
    for pid in $(members); do kill "$pid" 2>/dev/null || true; done
    sleep 1
    for pid in $(members); do kill -9 "$pid" 2>/dev/null || true; done
    kill "$(cat "$dir/namespace.pid")" 2>/dev/null || true
  fi
  ;;
*)
  echo "ray.sh: unknown action $action" >&2
  exit 2
  ;;
esac
