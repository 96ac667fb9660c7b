#!/usr/bin/env bash
# Sets everything up in .venv and runs the demo, or whatever the flags say:
#   bash launch/local.sh [--config=configs/vtab.py:cifar100 …]
# $NOAH_JAX_REQUIREMENTS is one more file to install, e.g. launch/requirements-tpu.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
use_venv ${NOAH_JAX_REQUIREMENTS:+"$NOAH_JAX_REQUIREMENTS"}
for flag in "$@"; do
  case $flag in -config | --config | -config=* | --config=*) exec python -m noah_jax.main "$@" ;; esac
done
exec python -m noah_jax.main --config=configs/demo.py "$@"
