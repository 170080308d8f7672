#!/usr/bin/env bash
# A search on SLURM: a head on the first machine, which works too, and workers on the others.
#
#     ray get-auth-token --generate          # once; the home folder is the same on every machine
#     bash docs/cluster/node.sh install      # once, and after every update
#     sbatch docs/cluster/slurm.sh drg_dsr --storage /shared/studies/night
#
# Submit it from the top of the checkout. Short before its time is over the job ends the search,
# which stays resumable, and queues itself again; the next run goes on in the folder of --storage.
#SBATCH --job-name=skdtune
#SBATCH --nodes=4  # change: machines
#SBATCH --gpus-per-node=4  # change: GPUs of a machine
#SBATCH --cpus-per-task=32  # change: CPUs of a machine
#SBATCH --time=12:00:00  # change: what your queue allows
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0  # all of a machine's memory; else many queues give a part
#SBATCH --no-kill  # a lost worker is not the end of the job
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail

export SKDTUNE_SHARED=${SKDTUNE_SHARED:-/shared} # change: a folder that every machine sees
export RAY_AUTH_MODE=token MLFLOW_TRACKING_URI=http://127.0.0.1:5000
node_sh=$SLURM_SUBMIT_DIR/docs/cluster/node.sh
PATH=${SKDTUNE_VENV:-$HOME/skdtune-venv}/bin:$PATH
RAY_HEAD_IP=$(hostname -I | awk '{print $1}')
export RAY_HEAD_IP
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
others=$((SLURM_JOB_NUM_NODES - 1))

workers=
search=
again=no
# shellcheck disable=SC2317  # the trap calls it
finish() {
  if [[ -n $workers ]]; then kill "$workers" 2>/dev/null || true; fi
  bash "$node_sh" leave
}
trap finish EXIT

bash "$node_sh" head --node-ip-address="$RAY_HEAD_IP" --num-cpus="$SLURM_CPUS_PER_TASK"
if ((others > 0)); then
  srun --no-kill --nodes="$others" --ntasks="$others" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --exclude="$first" bash "$node_sh" worker --block --num-cpus="$SLURM_CPUS_PER_TASK" &
  workers=$!
fi

resume=() # a study that is there already is gone on with
previous=
for argument in "$@"; do
  if [[ $argument == --storage=* || $previous == --storage ]]; then
    if [[ -f ${argument#--storage=}/study.json ]]; then resume=(--resume); else resume=(); fi
  fi
  previous=$argument
done
python -m skdtune.search "$@" --address auto "${resume[@]}" &
search=$!
trap 'again=yes; kill -TERM "$search"' USR1
trap 'kill -TERM "$search"' TERM INT
code=0
wait "$search" || code=$?
while kill -0 "$search" 2>/dev/null; do # a signal ends `wait`, the search needs a moment more
  code=0
  wait "$search" || code=$?
done
if [[ $again == yes ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
