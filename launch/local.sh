#!/usr/bin/env bash
# Sets everything up in .venv and runs the demo, or whatever the flags say:
#
#   bash launch/local.sh [--config=configs/vtab.py:cifar100 …]
#
# $NOAH_JAX_REQUIREMENTS is one more file to install, e.g. launch/requirements-tpu.txt or
# launch/requirements-cuda.txt. $PYTHON is the Python that makes .venv, at least 3.11.
# --help installs nothing. It shows this, and once .venv is there, all flags and settings. Before
# that, configs/README.md describes them.
set -euo pipefail
cd "$(dirname "$0")/.."
for flag in "$@"; do
  case $flag in
    -h | -help | --help)
      sed -n '2,/^set /{/^# \{0,1\}/s///p}' launch/local.sh
      if compgen -G ".venv/installed-*" >/dev/null; then
        exec .venv/bin/python -m noah_jax.main --help
      fi
      exit
      ;;
  esac
done
source launch/setup.sh
use_venv ${NOAH_JAX_REQUIREMENTS:+"$NOAH_JAX_REQUIREMENTS"}
for flag in "$@"; do
  case $flag in -config | --config | -config=* | --config=*) exec python -m noah_jax.main "$@" ;; esac
done
exec python -m noah_jax.main --config=configs/demo.py "$@"
