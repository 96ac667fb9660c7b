#!/usr/bin/env bash
# A run on a Cloud TPU VM, or on all hosts of a pod slice; on spot machines, which may be taken away.
#
#   bash launch/tpu_vm.sh --bucket=gs://BUCKET/FOLDER all --config=configs/vtab.py:cifar100
#
# Steps, each of which can be called by itself, and again:
#   create   asks for the machine (a queued resource), and waits until it is there
#   setup    copies this clone to it, installs launch/requirements-tpu.txt, fetches the images
#   run      starts the program with the flags that follow; it needs this terminal no longer
#   follow   shows its output, until it ends
#   fetch    copies the workdir from the bucket to runs/FOLDER
#   delete   gives the machine back; until then it costs money
#   all      all of these in turn. If the machine is taken away, another one goes on with the workdir
#            in the bucket, where it is copied to every minute. After an error the machine stays.
#
# Options, before the step:
#   --bucket=gs://…         a folder for the workdir, of this run alone
#   --name=noah-jax  --zone=us-central1-a  --project=…   as gcloud has them
#   --type=v5litepod-8      the accelerator
#   --runtime=…             the TPU software version; default: the one for the type
#   --on-demand             not a spot machine
#   --prepare='cifar100 …'  what each host prepares from TFDS
#   --data=gs://…           images that each host copies to data/: --config=configs/folder.py:data/…
#   --dry-run               prints all commands, runs none
set -euo pipefail
cd "$(dirname "$0")/.."

name=noah-jax zone=us-central1-a project='' type=v5litepod-8 runtime='' bucket='' spot=(--spot)
prepare='' data='' dry_run=false poll=${NOAH_JAX_POLL_SECONDS:-20}

fail() {
  echo "error: $*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --bucket=*) bucket=${1#*=} bucket=${bucket%/} ;;
    --prepare=*) prepare=${1#*=} ;;
    --data=*) data=${1#*=} ;;
    --on-demand) spot=() ;;
    --dry-run) dry_run=true ;;
    -*) fail "no option $1; bash launch/tpu_vm.sh without arguments shows all" ;;
    *) break ;;
  esac
  shift
done
if [ $# = 0 ]; then
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' launch/tpu_vm.sh
  exit 2
fi
step=$1
shift
case $step in
  create | setup | run | follow | fetch | delete | all) ;;
  *) fail "no step $step: expected create, setup, run, follow, fetch, delete or all" ;;
esac
case $step in
  run | all)
    [[ " $*" == *" --config"* ]] || fail "the program's flags are missing, e.g. --config=configs/vtab.py:cifar100"
    [[ " $*" == *" --workdir"* ]] && fail "--workdir is where --bucket is copied to, leave it out"
    ;;
esac
case $step in
  run | all | fetch)
    [[ $bucket == gs://*/* ]] || fail "--bucket=gs://BUCKET/FOLDER says where the workdir is kept, not '$bucket'"
    ;;
esac
if [ -z "$runtime" ]; then
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    *) fail "--runtime=… is needed: which TPU software a $type has is not known here" ;;
  esac
fi
where=(--zone="$zone" ${project:+--project="$project"})
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not here: see https://cloud.google.com/sdk"

show() { # the command, so that it can be copied
  printf '+'
  printf ' %q' "$@"
  printf '\n'
} >&2

try() {
  show "$@"
  $dry_run || "$@"
}

on() { # worker, then what launch/on_tpu_vm.sh is to do there
  local worker=$1 words
  shift
  printf -v words ' %q' "$@"
  try gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$worker" \
    --command="bash noah_jax/launch/on_tpu_vm.sh$words"
}

state() { # of the queued resource, NONE if there is none
  if $dry_run; then
    echo ACTIVE
  elif ! gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>/dev/null; then
    echo NONE
  fi
}

create() {
  local now before=''
  now=$(state)
  case $now in
    FAILED | SUSPENDED | SUSPENDING)
      delete
      now=NONE
      ;;
  esac
  if $dry_run || [ "$now" = NONE ]; then
    try gcloud compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" \
      --accelerator-type="$type" --runtime-version="$runtime" "${spot[@]}"
  fi
  while now=$(state) && [ "$now" != ACTIVE ]; do
    [ "$now" = "$before" ] || echo "$name: $now" >&2
    before=$now
    case $now in
      FAILED | SUSPENDED | NONE) fail "$name is $now: gcloud compute tpus queued-resources describe $name ${where[*]}" ;;
    esac
    sleep "$poll"
  done
}

setup() { # `all` looks at what this and `run` return, which is why nothing in them stops by itself
  mkdir -p runs
  $dry_run || git ls-files -z | tar --null --files-from=- -czf runs/noah_jax.tar.gz || return
  try gcloud compute tpus tpu-vm scp runs/noah_jax.tar.gz "$name:noah_jax.tar.gz" "${where[@]}" \
    --worker=all || return
  try gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all \
    --command='mkdir -p noah_jax && tar -xzf noah_jax.tar.gz -C noah_jax' || return
  on all setup "$data" "$prepare"
}

run() {
  on 0 restore "$bucket" || return # the first host alone reads and writes the workdir
  on all start "$@"
}

follow() { # from line +1, or the last so many
  on 0 follow "${1:-+1}"
}

fetch() {
  try mkdir -p "runs/$(basename "$bucket")"
  try gcloud storage rsync --recursive "$bucket" "runs/$(basename "$bucket")"
}

delete() {
  try gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

until_over() { # whether the program has ended, with exit code $code; else it was taken away
  local lines=+1
  while :; do
    follow $lines || true
    code=$(gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 \
      --command='bash noah_jax/launch/on_tpu_vm.sh exit_code' 2>/dev/null) || code=''
    case $code in
      lost) return 1 ;;           # the machine was started anew
      143 | '') sleep "$poll" ;;  # told to stop, or out of reach: why?
    esac
    [ "$(state)" = ACTIVE ] || return 1
    [ -z "$code" ] || return 0
    lines=10
  done
}

all() {
  while :; do
    create
    if setup && run "$@"; then
      if $dry_run; then
        follow
        code=0
        break
      fi
      until_over && break
    elif [ "$(state)" = ACTIVE ]; then
      fail "$name stays: put it right and go on by the steps, or launch/tpu_vm.sh --name=$name delete"
    fi
    echo "$name was taken away: another one goes on" >&2
  done
  fetch
  if [ "$code" != 0 ]; then
    echo "the program ended with code $code; $name stays: launch/tpu_vm.sh --name=$name delete" >&2
    exit "$code"
  fi
  delete
}

"$step" "$@"
