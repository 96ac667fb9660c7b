#!/usr/bin/env bash
# The commands that launch/tpu_vm.sh runs on the hosts of a TPU; not to be called by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
source launch/uv.sh
source launch/bucket.sh
workdir=runs/bucket # a copy of the folder that the file `bucket` names, on the first host

refuse_other_than_folder() { # bucket
  if ! is_folder "$1"; then
    echo "error: '$1' is not gs://BUCKET/FOLDER" >&2
    return 1
  fi
}

save() {
  local bucket
  if [ -f bucket ] && [ -d $workdir ]; then
    bucket=$(cat bucket)
    refuse_other_than_folder "$bucket" || return
    gcloud storage rsync --recursive --delete-unmatched-destination-objects $workdir "$bucket"
  fi
}

setup() { # data, tasks to prepare
  make_venv
  use_venv launch/requirements-tpu.txt
  if [ -n "$1" ]; then
    mkdir -p data
    gcloud storage rsync --recursive "$1" data
  fi
  local tasks
  read -ra tasks <<<"$2"
  if [ ${#tasks[@]} -gt 0 ]; then
    python -m noah_jax.data prepare "${tasks[@]}"
  fi
}

restore() { # bucket
  refuse_other_than_folder "$1"
  if [ -d $workdir ] && [ "$(cat bucket 2>/dev/null)" != "$1" ]; then
    echo "error: here is the workdir of $(cat bucket): take another --name for $1" >&2
    return 1
  fi
  if [ ! -d $workdir ]; then
    # This shows that the bucket can be written to, and leaves a file to read.
    date | gcloud storage cp - "$1/started"
    mkdir -p runs/restored
    gcloud storage rsync --recursive "$1" runs/restored
    echo "$1" >bucket
    mv runs/restored $workdir
  fi
}

start() { # flags
  if kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null; then
    echo "the run is going on here already"
    return
  fi
  rm -f exit_code
  nohup setsid bash launch/on_tpu_vm.sh work "$@" >log 2>&1 </dev/null &
  echo $! >pid
}

work() { # flags
  local saver program
  code=1
  trap 'echo $code >exit_code' EXIT
  use_venv launch/requirements-tpu.txt
  python -m noah_jax.main --workdir=$workdir "$@" &
  program=$!
  trap 'kill -TERM $program' TERM INT
  while sleep "${NOAH_JAX_SAVE_SECONDS:-60}"; do save >/dev/null 2>&1 || echo "not saved"; done &
  saver=$!
  while :; do
    code=0
    wait $program || code=$?
    kill -0 $program 2>/dev/null || break # else the trap ended the waiting
  done
  kill $saver
  save || code=1
}

follow() { # from which line
  tail --lines="$1" --pid="$(cat pid)" --follow log
}

exit_code() { # nothing while the run goes on
  cat exit_code 2>/dev/null || kill -0 "$(cat pid)" 2>/dev/null || echo lost
}

"$@"
