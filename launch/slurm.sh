#!/usr/bin/env bash
# A run on the GPUs of a Slurm cluster, as one job, or as an array with a job for each task and seed:
#
#   bash launch/slurm.sh --config=configs/vtab.py:cifar100
#   bash launch/slurm.sh --nodes=2 --gpus-per-node=8 --time=12:00:00 --config=configs/vtab.py:all
#   bash launch/slurm.sh --tasks=cifar100+dtd --seeds=5 --config=configs/vtab.py
#   bash launch/slurm.sh --cpus-per-task=8 --mem=64G -p gpu --config=configs/vtab.py:cifar100
#
# Before --config: options of sbatch, where one GPU of one node is the default, and
#   --tasks=a+b  --seeds=N   the array: N seeds of each task, from 0 on
#   --dry-run                prints the command and the job's script, submits nothing
# After it: flags of the program. Values may also be words of their own: --mem 64G. A job that
# reaches its time limit, or has to make room for another, saves, is queued again, and goes on in its
# workdir under runs/. Makes .venv first, with what launch/requirements-cuda.txt lists, or
# $NOAH_JAX_REQUIREMENTS. The images have to be there: compute nodes often cannot reach the net.
set -euo pipefail
cd "$(dirname "$0")/.."

options=() last='' tasks='' seeds='' dry_run=false config=''
fail() {
  echo "error: $*" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    --tasks | --seeds | --config) # the value is the next word
      [[ ${2:--} != -* ]] || fail "$1 has no value"
      set -- "$1=$2" "${@:3}"
      ;;
  esac
  case $1 in
    --tasks=*) tasks=${1#*=} ;;
    --seeds=*) seeds=${1#*=} ;;
    --dry-run) dry_run=true ;;
    --config=*)
      config=${1#*=}
      shift
      break
      ;;
    -*) options+=("$1") ;;
    *) # the value of an option of sbatch, which would take any other word for the job's script
      [[ $last == -* && $last != --*=* ]] || fail "$1 belongs to no option"
      options+=("$1")
      ;;
  esac
  last=$1
  shift
done
[ -n "$config" ] || fail "--config is missing, e.g. --config=configs/vtab.py:cifar100"

choose="config=$(printf %q "$config")"
if [ -n "$tasks$seeds" ]; then
  [[ $config != *:* ]] || fail "with --tasks and --seeds, --config is a file alone, not $config"
  [[ -n $tasks && $tasks != +* ]] || fail "--tasks is missing, e.g. --tasks=cifar100+dtd"
  [[ ${seeds:=1} =~ ^[1-9][0-9]*$ ]] || fail "--seeds=$seeds: expected how many, at least 1"
  IFS=+ read -ra each <<<"$tasks"
  options+=("--array=0-$((${#each[@]} * seeds - 1))")
  choose="tasks=($(printf ' %q' "${each[@]}") )
config=$(printf %q "$config"):\${tasks[SLURM_ARRAY_TASK_ID / $seeds]},seed=\$((SLURM_ARRAY_TASK_ID % $seeds))"
fi

script="#!/usr/bin/env bash
$choose
source .venv/bin/activate
if [ -n \"\$SLURM_CPUS_PER_TASK\" ]; then # which srun does not take from sbatch
  export SRUN_CPUS_PER_TASK=\"\$SLURM_CPUS_PER_TASK\"
fi
srun python -m noah_jax.main --config=\"\$config\"$([ $# = 0 ] || printf ' %q' "$@")
code=\$?
if [ \$code = 143 ]; then # told to stop, and saved
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \$code"
command=(sbatch --job-name=noah_jax --nodes=1 --ntasks-per-node=1 --gpus-per-node=1
  --signal=TERM@120 --requeue --open-mode=append --output=runs/slurm-%j.out "${options[@]}")

if $dry_run; then
  printf '%q ' "${command[@]}"
  printf "<<'END'\n%s\nEND\n" "$script"
  exit
fi
command -v sbatch >/dev/null || fail "sbatch is not here: log in to a Slurm cluster"
source launch/setup.sh
use_venv "${NOAH_JAX_REQUIREMENTS:-launch/requirements-cuda.txt}"
mkdir -p runs
"${command[@]}" <<<"$script"
