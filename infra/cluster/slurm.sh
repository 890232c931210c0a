#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine's loopback, for tests: munged, slurmctld, and two slurmd that take
# themselves for machines of their own (each has its host name and /etc/hosts, in namespaces). Needs root.
#
#   infra/cluster/slurm.sh start DIR       configuration, logs and keys in DIR; then: export SLURM_CONF=DIR/slurm.conf;
#                                          on the first free ports from 26817, so that several can run
#   infra/cluster/slurm.sh lose DIR NODE   kill -9 of a node's slurmd and of the steps that it started
#   infra/cluster/slurm.sh back DIR NODE   start that slurmd again
#                          NODE slurmctld: the controller in place of a node
#   infra/cluster/slurm.sh stop DIR        end everything
set -euo pipefail
action=${1:?start, lose, back or stop}
dir=$(mkdir -p "${2:?a folder}" && cd "$2" && pwd)
nodes=(polm-n1 polm-n2)
export SLURM_CONF=$dir/slurm.conf

for program in munged slurmctld slurmd unshare; do
  if ! command -v "$program" >/dev/null; then
    echo "slurm.sh: $program is missing; as root: apt-get install -y slurm-wlm munge util-linux" >&2
    exit 3
  fi
done
if [ "$(id -u)" != 0 ]; then
  echo "slurm.sh: needs root, for host names and for starting jobs" >&2
  exit 3
fi

# The first port from 26817 at which nobody answers, nor at the next one on the nodes' addresses.
free_port() {
  local port=26817
  while answers 127.0.0.1 "$port" || answers 127.0.0.2 $((port + 1)) || answers 127.0.0.3 $((port + 1)); do
    port=$((port + 10))
  done
  echo "$port"
}
answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

configure() {
  local port
  port=$(free_port)
  dd if=/dev/urandom of="$dir/munge.key" bs=128 count=1 status=none
  chmod 400 "$dir/munge.key"
  cat >"$SLURM_CONF" <<CONF
ClusterName=polm
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SlurmdTimeout=10
MessageTimeout=5
KillWait=10
MinJobAge=300
ReturnToService=2
NodeName=${nodes[0]} NodeAddr=127.0.0.2 NodeHostname=${nodes[0]} Port=$((port + 1)) CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=${nodes[1]} NodeAddr=127.0.0.3 NodeHostname=${nodes[1]} Port=$((port + 1)) CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=${nodes[0]},${nodes[1]} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
CONF
  printf '%s\n' "127.0.0.1 localhost $(hostname -s)" "127.0.0.2 ${nodes[0]}" "127.0.0.3 ${nodes[1]}" >"$dir/hosts"
  mkdir -p "$dir/state"
}

start_controller() {
  (cd / && exec setsid slurmctld -D "$@" >"$dir/slurmctld.out" 2>&1 </dev/null) &
  echo $! >"$dir/slurmctld.leader"
}

start_node() {
  mkdir -p "$dir/spool-$1"
  setsid unshare --uts --mount sh -c "cd /; hostname $1; readlink /proc/self/ns/uts >>'$dir/$1.namespaces'; mount --bind '$dir/hosts' /etc/hosts; exec slurmd -D" >"$dir/slurmd-$1.out" 2>&1 </dev/null &
  echo $! >"$dir/$1.leader"
}

# The processes of Slurm that run the steps of a node, and outlive its slurmd; by the node's namespaces of host names.
steps() {
  for pid in $(pgrep -f "slurmstepd: \[" || true); do
    if readlink "/proc/$pid/ns/uts" | grep -qxsFf "$dir/$1.namespaces"; then echo "$pid"; fi
  done
}

# A process and all that descends from it.
tree() {
  local child
  for child in $(pgrep -P "$1" || true); do tree "$child"; done
  echo "$1"
}

case $action in
start)
  configure
  munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munged.seed"
  start_controller -i
  for node in "${nodes[@]}"; do start_node "$node"; done
  while [ $SECONDS -lt 60 ]; do
    if [ "$(timeout 5 sinfo --noheader --format='%T %D' 2>/dev/null)" = "idle 2" ]; then exit 0; fi
    sleep 0.2
  done
  echo "slurm.sh: the nodes are not idle after 60 s; see the logs in $dir" >&2
  timeout 5 sinfo >&2 || true
  exit 1
  ;;
lose)
  node=${3:?a node}
  # The daemons alone: what a step had started is left behind, as after a crash of Slurm on that node.
  for pid in $(steps "$node"); do kill -9 "$pid" || true; done
  kill -9 "$(cat "$dir/$node.leader")"
  ;;
back)
  if [ "${3:?a node}" = slurmctld ]; then start_controller; else start_node "$3"; fi
  ;;
stop)
  for node in "${nodes[@]}"; do
    for step in $(steps "$node"); do
      for pid in $(tree "$step"); do kill "$pid" 2>/dev/null || true; done
      kill -9 "$step" 2>/dev/null || true  # else it waits for the controller, which may be dead
    done
  done
  for name in "${nodes[@]}" slurmctld; do
    if [ -f "$dir/$name.leader" ]; then
      for pid in $(tree "$(cat "$dir/$name.leader")"); do kill "$pid" 2>/dev/null || true; done
    fi
  done
  if [ -f "$dir/munged.pid" ]; then kill "$(cat "$dir/munged.pid")" 2>/dev/null || true; fi
  ;;
*)
  echo "slurm.sh: unknown action $action" >&2
  exit 2
  ;;
esac
