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
# Options, before the step, each with `=` or as two words, and the same for each step:
#   --bucket=gs://…         a folder for the workdir, of this run alone
#   --name=noah-jax  --zone=us-central1-a  --project=…   as gcloud has them
#   --type=v5litepod-8      the accelerator
#   --runtime=…             the TPU software version; default: the one for the type
#   --on-demand             not a spot machine
#   --prepare='cifar100 …'  what each host prepares from TFDS
#   --data=gs://…           images that each host copies to data/: --config=configs/folder.py:data/…
#   --dry-run               prints all commands, runs none
# Options of gcloud go on to it:
#   --network --subnetwork --service-account --labels --reserved …   those of `queued-resources create`
#   --internal-ips          no external addresses: ssh then uses --internal-ip, from a machine in the
#                           network, or from elsewhere --tunnel-through-iap (with `gcloud alpha`); the
#                           network needs a way out, e.g. Cloud NAT, to install packages
#   --ssh-key-file …        those of `tpu-vm ssh` and `scp`
#   --account --billing-project --configuration --impersonate-service-account   in every call
set -eo pipefail # without -u, by which the bash 3.2 of macOS takes an empty array for a mistake
cd "$(dirname "$0")/.."
source launch/bucket.sh

name=noah-jax zone=us-central1-a project='' type=v5litepod-8 runtime='' bucket='' spot=(--spot)
prepare='' data='' dry_run=false poll=${NOAH_JAX_POLL_SECONDS:-20}
for_create=() for_ssh=() for_all=() tpu_vm=(gcloud compute tpus tpu-vm)

# The options that there are, gcloud's as of Google Cloud SDK 528.
own=(name zone project type runtime bucket prepare data)
of_create=(data-disk description labels metadata metadata-from-file network range scopes
  reservation-host-folder reservation-host-organization reservation-host-project service-account
  subnetwork tags valid-after-duration valid-after-time valid-until-duration valid-until-time)
of_ssh=(ssh-key-expiration ssh-key-expire-after ssh-key-file strict-host-key-checking)
of_all=(account billing-project configuration impersonate-service-account)
own_switches=(spot on-demand dry-run)
create_switches=(guaranteed internal-ips reserved shielded-secure-boot)
ssh_switches=(force-key-file-overwrite internal-ip tunnel-through-iap)
with_value=("${own[@]}" "${of_create[@]}" "${of_ssh[@]}" "${of_all[@]}")
switches=("${own_switches[@]}" "${create_switches[@]}" "${ssh_switches[@]}")

fail() {
  echo "error: $*" >&2
  exit 2
}

among() { # word, list
  local word=$1 each
  shift
  for each; do [ "$each" != "$word" ] || return 0; done
  return 1
}

no_option() { # word
  local near
  case ${1#--} in
    accelerator-type) near='type' ;;
    runtime-version) near='runtime' ;;
    *)
      near=$(python3 -c "import difflib, sys
print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1))" "$1" "${with_value[@]}" "${switches[@]}") || near=''
      ;;
  esac
  fail "no option $1${near:+, did you mean --$near?}; bash launch/tpu_vm.sh without arguments shows all"
}

while [[ ${1-} == -* ]]; do
  option=${1%%=*}
  option=${option#--}
  if among "$option" "${with_value[@]}"; then
    if [[ $1 != *=* ]]; then # the value is the next word
      [[ ${2:--} != -* ]] || fail "--$option has no value"
      set -- "$1=$2" "${@:3}"
    fi
  elif ! among "$option" "${switches[@]}"; then
    no_option "${1%%=*}"
  elif [[ $1 == *=* ]]; then
    fail "--$option takes no value"
  fi
  case $option in
    spot) spot=(--spot) ;;
    on-demand) spot=() ;;
    dry-run) dry_run=true ;;
    reserved | guaranteed) spot=() for_create+=("$1") ;;
    tunnel-through-iap) tpu_vm=(gcloud alpha compute tpus tpu-vm) for_ssh+=("$1") ;;
    *)
      if among "$option" "${own[@]}"; then
        printf -v "$option" %s "${1#*=}"
      elif among "$option" "${of_create[@]}" "${create_switches[@]}"; then
        for_create+=("$1")
      elif among "$option" "${of_all[@]}"; then
        for_all+=("$1")
      else
        for_ssh+=("$1")
      fi
      ;;
  esac
  shift
done
if among --internal-ips "${for_create[@]}" && ! among --tunnel-through-iap "${for_ssh[@]}"; then
  among --internal-ip "${for_ssh[@]}" || for_ssh+=(--internal-ip)
fi
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
    [ -n "$bucket" ] || fail "--bucket=gs://BUCKET/FOLDER is missing, where the workdir is kept"
    ;;
esac
bucket=${bucket%/}
if [ -n "$bucket" ] && ! is_folder "$bucket"; then
  fail "--bucket='$bucket': expected gs://BUCKET/FOLDER, in letters, digits and ._=+@,~-"
fi
if [ -z "$runtime" ]; then
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    v[234]-*) runtime=tpu-ubuntu2204-base ;;
    *) fail "--runtime=… is needed: which TPU software a $type has is not known here" ;;
  esac
fi
where=(--zone="$zone" ${project:+--project="$project"} "${for_all[@]}")
give_back="bash launch/tpu_vm.sh --name=$name ${where[*]} delete"
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
  try "${tpu_vm[@]}" ssh "$name" "${where[@]}" "${for_ssh[@]}" --worker="$worker" \
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
      --accelerator-type="$type" --runtime-version="$runtime" "${spot[@]}" \
      "${for_create[@]}"
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
  try "${tpu_vm[@]}" scp runs/noah_jax.tar.gz "$name:noah_jax.tar.gz" "${where[@]}" "${for_ssh[@]}" \
    --worker=all || return
  try "${tpu_vm[@]}" ssh "$name" "${where[@]}" "${for_ssh[@]}" --worker=all \
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
  try gcloud storage rsync --recursive "$bucket" "runs/$(basename "$bucket")" "${for_all[@]}"
}

delete() {
  try gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

until_over() { # whether the program has ended, with exit code $code; else it was taken away
  local lines=+1
  while :; do
    follow $lines || true
    code=$("${tpu_vm[@]}" ssh "$name" "${where[@]}" "${for_ssh[@]}" --worker=0 \
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
      fail "$name stays: put it right and go on by the steps, or $give_back"
    fi
    echo "$name was taken away: another one goes on" >&2
  done
  fetch
  if [ "$code" != 0 ]; then
    echo "the program ended with code $code; $name stays: $give_back" >&2
    exit "$code"
  fi
  delete
}

"$step" "$@"
