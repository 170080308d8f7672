#!/usr/bin/env bash
# What a machine of the cluster does. Every file that brings a cluster up calls this one script.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: node.sh COMMAND [ARGUMENTS]

  install       the virtual environment with the locked packages and this checkout; what Ray's
                launcher reads from ~/.bashrc. Does nothing when nothing has changed.
  head          Ray's head and the MLflow server; ARGUMENTS go to `ray start`
  worker        joins the head at $RAY_HEAD_IP; ARGUMENTS go to `ray start`
  mlflow        the MLflow server on 127.0.0.1:5000, in the foreground, as soon as no other uses its
                database; ARGUMENTS go to it
  stop          on the head: ends searches and final trainings, Ray on every machine, and MLflow
  leave         ends Ray, MLflow and CUDA MPS on this machine alone

From the environment: SKDTUNE_VENV (~/skdtune-venv), SKDTUNE_SHARED (/shared: the folder that every
machine sees), SKDTUNE_LOCAL (/tmp: a folder of this machine alone), SKDTUNE_PYTHON (python3),
SKDTUNE_WITHOUT_RAY (none: what a worker calls when no Ray has run on it for 15 minutes), and any of
Ray's own RAY_ variables.
TEXT
}

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(cd "$HERE/../.." && pwd)
VENV=${SKDTUNE_VENV:-$HOME/skdtune-venv}
SHARED=${SKDTUNE_SHARED:-/shared}
LOCAL=${SKDTUNE_LOCAL:-/tmp}
LAUNCHER_CONFIG=$HOME/ray_bootstrap_config.yaml # Ray's launcher puts both on the head, nowhere else
LAUNCHER_KEY=$HOME/ray_bootstrap_key.pem
# Not in the home, which may be that of many machines. Each folder is its own lock.
MLFLOW=$LOCAL/skdtune-mlflow-$EUID # log and pid of the server that `head` keeps running
WATCH=$LOCAL/skdtune-watch-$EUID   # log of what watches a rented worker
MPS=$LOCAL/skdtune-mps-$EUID       # socket and log of the daemon that lets trials share a GPU

refuse() {
  echo "node.sh: $*" >&2
  exit 2
}

# own_folder FOLDER: this user's alone, whoever else may write beside it. The folder itself is what is
# locked: systemd, which empties /tmp of old files, spares a locked one.
own_folder() {
  mkdir -m 700 "$1" 2>/dev/null || true
  is_own "$1" || refuse "$1 is not a folder of yours"
}

is_own() { [[ -d $1 && -O $1 && ! -L $1 ]]; }

# ------------------------------------------------------------------------------------ install

install_all() {
  local python stamp wanted
  stamp=$VENV/.skdtune-installed
  wanted=$(cd "$CHECKOUT" && echo "$CHECKOUT" && sha256sum requirements.lock pyproject.toml)
  if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    python=$(new_enough_python)
    stop_mlflow # `head` starts it again, from what is installed now
    "$python" -m venv "$VENV"
    bash "$CHECKOUT/docs/cluster/install.sh" "$VENV"
    echo "$wanted" >"$stamp"
  fi
  own_token
  remember PATH "\"$VENV/bin:\$PATH\""
  remember RAY_AUTH_MODE token
}

new_enough_python() {
  local python
  for python in "${SKDTUNE_PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  refuse "Python 3.11 or newer is needed; name one with SKDTUNE_PYTHON"
}

# remember NAME VALUE: one line of ~/.bashrc, the only file that Ray's launcher reads.
remember() {
  local line="export $1=$2 # skdtune"
  touch ~/.bashrc
  if grep -qxF "$line" ~/.bashrc; then return; fi
  sed -i --follow-symlinks "/^export $1=.* # skdtune\$/d" ~/.bashrc
  if [[ -n $(tail -c 1 ~/.bashrc) ]]; then echo >>~/.bashrc; fi
  echo "$line" >>~/.bashrc
}

# ------------------------------------------------------------------------------ head and worker

start_head() {
  local autoscaling=()
  need_token
  [[ -d $SHARED && -w $SHARED ]] || refuse "$SHARED, the folder that all machines share, cannot be written"
  set_environment
  if [[ -f $LAUNCHER_CONFIG ]]; then autoscaling=(--autoscaling-config="$LAUNCHER_CONFIG"); fi
  end_ray
  end_mps
  if [[ " $*" == *" --num-cpus="* ]]; then start_mps; fi # it works too
  remember MLFLOW_TRACKING_URI http://127.0.0.1:5000
  export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 # what `ray job submit` starts has it from here
  if ! mlflow_answers; then
    own_folder "$MLFLOW"
    setsid bash "$HERE/node.sh" keep-mlflow </dev/null >>"$MLFLOW/log" 2>&1 &
  fi
  ray start --head --port=6379 --num-cpus=0 --dashboard-host=127.0.0.1 \
    --object-store-memory=1000000000 --disable-usage-stats "${autoscaling[@]}" "$@"
  wait_for_mlflow
}

start_worker() {
  need_token
  [[ -n ${RAY_HEAD_IP:-} ]] || refuse "RAY_HEAD_IP, the head's address, is not set"
  set_environment
  if [[ -n ${SKDTUNE_WITHOUT_RAY:-} ]]; then
    own_folder "$WATCH"
    setsid bash "$HERE/node.sh" watch </dev/null >>"$WATCH/log" 2>&1 &
  fi
  end_ray
  end_mps
  start_mps
  ray start --address="$RAY_HEAD_IP:6379" --object-store-memory=1000000000 --disable-usage-stats "$@"
}

# Trials on one GPU run at the same moment through CUDA MPS, where the driver brings it and a process
# gets at the GPU through it; else they take turns. Whoever has set its folder, if only to an empty
# name, wants none of ours.
start_mps() {
  if [[ -n ${CUDA_MPS_PIPE_DIRECTORY+set} ]] || ! command -v nvidia-cuda-mps-control >/dev/null; then return; fi
  own_folder "$MPS"
  if python -m skdtune.mps "$MPS"; then
    export CUDA_MPS_PIPE_DIRECTORY=$MPS CUDA_MPS_LOG_DIRECTORY=$MPS # for Ray's processes
  else
    echo "node.sh: trials that share a GPU take turns here: CUDA MPS cannot be used; see $MPS" >&2
  fi
}

end_mps() {
  if ! is_own "$MPS" || ! command -v nvidia-cuda-mps-control >/dev/null; then return; fi
  CUDA_MPS_PIPE_DIRECTORY=$MPS CUDA_MPS_LOG_DIRECTORY=$MPS \
    timeout 20 nvidia-cuda-mps-control >/dev/null 2>&1 <<<"quit -t 5" || true
}

# Only the head ends machines that are rented, and it may be lost: its workers' Ray ends within a
# minute then. Looks are counted, not seconds, since a clock may be set.
watch_for_ray() {
  local missed=0
  exec 9<"$WATCH"
  flock -n 9 || exit 0 # one is enough
  while true; do
    sleep "${SKDTUNE_LOOK_S:-60}" 9<&-
    missed=$((missed + 1))
    if pgrep -x raylet >/dev/null; then missed=0; fi
    if ((missed >= 15)); then
      echo "node.sh: no Ray on this machine for 15 looks: $SKDTUNE_WITHOUT_RAY"
      bash -c "$SKDTUNE_WITHOUT_RAY" 9<&- || true
      missed=0
    fi
  done
}

# Whoever reaches Ray's ports may run anything: without a token nothing is started.
need_token() {
  own_token
  [[ -n ${RAY_AUTH_TOKEN:-} || -s ${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token} ]] ||
    refuse "no token at ${RAY_AUTH_TOKEN_PATH:-~/.ray/auth_token}: Ray is not started without one" \
      "(make it once where you call the launcher: ray get-auth-token --generate)"
}

# Ray leaves its file readable to all.
own_token() {
  if [[ -f ~/.ray/auth_token ]]; then chmod 600 ~/.ray/auth_token; fi
}

set_environment() {
  export RAY_AUTH_MODE=token
  # A machine that falls silent is given up after three missed checks, not after a minute.
  export RAY_health_check_initial_delay_ms=${RAY_health_check_initial_delay_ms:-3000}
  export RAY_health_check_period_ms=${RAY_health_check_period_ms:-3000}
  export RAY_health_check_timeout_ms=${RAY_health_check_timeout_ms:-5000}
  export RAY_health_check_failure_threshold=${RAY_health_check_failure_threshold:-3}
  # A worker whose head is gone ends after this time.
  export RAY_gcs_rpc_server_reconnect_timeout_s=${RAY_gcs_rpc_server_reconnect_timeout_s:-30}
  # The launcher sets it to 1 for everything; without it Ray gives a trial as many threads as CPUs.
  unset OMP_NUM_THREADS
  local files
  files=$(ulimit -Sn)
  if [[ $files != unlimited ]] && ((files < 65536)); then
    ulimit -Sn 65536 2>/dev/null || ulimit -Sn "$(ulimit -Hn)" || true
  fi
}

end_ray() {
  ray stop "$@" >/dev/null 2>&1 || ray stop --force >/dev/null 2>&1 || true
}

# -------------------------------------------------------------------------------------- MLflow

serve_mlflow() {
  wait_for_database
  export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
  exec mlflow server --host 127.0.0.1 --port 5000 \
    --backend-store-uri "sqlite:///$SHARED/mlflow/mlflow.db" \
    --artifacts-destination "$SHARED/mlflow/artifacts" \
    --allowed-hosts "localhost:*,127.0.0.1:*" "$@"
}

# Two servers on one SQLite file harm it: a second one, of another cluster on the same folder, waits
# for the first. The server's processes hold the lock as long as one lives.
wait_for_database() {
  local lock=$SHARED/mlflow/lock told=no why
  mkdir -p "$SHARED/mlflow"
  exec 8>>"$lock"
  until why=$(flock -n 8 2>&1); do
    if [[ $told == no ]]; then
      echo "node.sh: MLflow waits: ${why:-its database is in use on $(tail -n 1 "$lock")}" \
        "(if nothing uses it any more, delete $lock)" >&2
      told=yes
    fi
    sleep 5
    exec 8>>"$lock" # it may have been deleted
  done
  uname -n >&8
}

# One server, started again when it crashes. Its processes hold the lock as long as one lives.
keep_mlflow() {
  exec 9<"$MLFLOW"
  flock -n 9 || exit 0
  echo $$ >"$MLFLOW/pid"
  : >"$MLFLOW/log" # what has waited once may not wait now
  while true; do
    bash "$HERE/node.sh" mlflow || true
    echo "node.sh: MLflow ended; starting it again in 5 s"
    sleep 5
  done
}

mlflow_answers() (
  exec 2>/dev/null
  exec 3<>/dev/tcp/127.0.0.1/5000 || exit 1
  printf 'GET /health HTTP/1.0\r\nHost: localhost:5000\r\n\r\n' >&3
  read -r -t 5 answer <&3
  [[ $answer == *" 200"* ]]
)

# A search runs without MLflow too, so a slow one is told and not waited for without end.
wait_for_mlflow() {
  for _ in {1..60}; do
    if mlflow_answers || grep -s '^node.sh: MLflow waits' "$MLFLOW/log" >&2; then return; fi
    sleep 1
  done
  echo "node.sh: MLflow does not answer yet; see $MLFLOW/log" >&2
}

stop_mlflow() {
  if ! is_own "$MLFLOW" || flock -n "$MLFLOW" true; then return; fi
  kill -TERM -- "-$(<"$MLFLOW/pid")" || true
  flock -w 10 "$MLFLOW" true || kill -KILL -- "-$(<"$MLFLOW/pid")" || true
}

# ---------------------------------------------------------------------------------------- stop

stop_all() {
  end_processes KILL 'ray/autoscaler/(_private|v2)/monitor\.py' # it would start the workers again
  end_processes TERM '^[^ ]*python[0-9.]* (-[^ ]+ )*-m skdtune\.(search|train)( |$)' # they end resumable
  if [[ -f $LAUNCHER_CONFIG && -f $LAUNCHER_KEY ]]; then stop_workers; fi
  leave
}

# end_processes SIGNAL PATTERN: this user's processes; at most half a minute is waited for them.
end_processes() {
  local found
  found=$(pgrep -u "$(id -u)" -f -- "$2") || return 0
  # shellcheck disable=SC2086  # a word a process
  kill "-$1" $found 2>/dev/null || true
  for _ in {1..30}; do
    pgrep -u "$(id -u)" -f -- "$2" >/dev/null || return 0
    sleep 1
  done
}

stop_workers() {
  local user address
  user=$(launcher_config 'print(config["auth"].get("ssh_user", "ubuntu"))')
  for address in $(worker_addresses); do
    ssh -n -i "$LAUNCHER_KEY" -o BatchMode=yes -o ConnectTimeout=10 -o LogLevel=ERROR \
      -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "$user@$address" \
      "SKDTUNE_VENV='$VENV' bash '$HERE/node.sh' leave" ||
      echo "node.sh: $address could not be reached; Ray may still run there" >&2 &
  done
  wait
}

worker_addresses() {
  launcher_config 'print(*config["provider"].get("worker_ips", []))' | grep . ||
    ray get-worker-ips "$LAUNCHER_CONFIG" || true
}

launcher_config() {
  python3 -c "import json, sys; config = json.load(open(sys.argv[1])); $1" "$LAUNCHER_CONFIG"
}

leave() {
  stop_mlflow
  end_ray --force
  end_mps
}

# ------------------------------------------------------------------------------------ commands

command=${1:-}
shift || true
if [[ -d $VENV/bin ]]; then PATH=$VENV/bin:$PATH; fi
case $command in
  install) install_all "$@" ;;
  head) start_head "$@" ;;
  worker) start_worker "$@" ;;
  mlflow) serve_mlflow "$@" ;;
  keep-mlflow) keep_mlflow ;;
  watch) watch_for_ray ;;
  stop) stop_all ;;
  leave) leave ;;
  -h | --help | help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
