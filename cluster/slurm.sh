#!/usr/bin/env bash
# A run on Slurm: sbatch cluster/slurm.sh CONFIG [key=value ...]
#
# Starts Ray on the nodes of the allocation, with a token of its own, runs the driver on the first one, and ends Ray with
# it. Told that time is nearly up, training takes a checkpoint; --requeue or the same sbatch line goes on from there.
# Adapt the lines below to your partition; everything behind them is the same everywhere.
#SBATCH --job-name=gradsieve
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gradsieve-%j.log
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: sbatch cluster/slurm.sh CONFIG [key=value ...]" >&2
  exit 2
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))    # two jobs on one node are seldom, and must not meet

# Other users share the network, often the nodes: nobody gets in without the token, and it is on no command line.
private=${GRADSIEVE_SLURM_DIR:-$HOME}/.gradsieve-$SLURM_JOB_ID
(umask 077 && mkdir -p "$private" && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$private/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token" RAY_USAGE_STATS_ENABLED=0

steps=()
end_ray() {
  for step in "${steps[@]}"; do kill "$step" 2> /dev/null || true; done
  wait || true
  rm -rf "$private"
}
trap end_ray EXIT

# The head's node works too: on Slurm it is paid for like the others.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --block --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 &
steps+=($!)

for _ in $(seq 60); do
  if ray status --address="$address:$port" > /dev/null 2>&1; then up=yes; break; fi
  sleep "${GRADSIEVE_SLURM_POLL:-5}"
done
if [ -z "${up:-}" ]; then
  echo "Ray's head did not come up on $head ($address:$port)" >&2
  exit 1
fi

for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --block --address="$address:$port" &
  steps+=($!)
done

# Slurm tells this shell alone; the driver must hear it, and be waited for until it has saved what it has.
RAY_ADDRESS="$address:$port" python -m pipeline.run "$@" &
driver=$!
trap 'kill -TERM "$driver" 2> /dev/null || true' TERM
code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2> /dev/null; do
  code=0
  wait "$driver" || code=$?
done
exit "$code"
