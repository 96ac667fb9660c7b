# Sourced by local.sh and test.sh: `use_venv REQUIREMENTS` makes .venv once and enters it.
# $NOAH_JAX_REQUIREMENTS replaces requirements.txt, e.g. launch/requirements-tpu.txt.

use_venv() {
  local requirements=$1 python=${PYTHON:-python3} stamp
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "error: noah_jax needs Python 3.11 or newer; name one with PYTHON=/path/to/python" >&2
      exit 1
    }
    "$python" -m venv --clear .venv
  fi
  stamp=.venv/installed-$(cat "$requirements" requirements.txt | cksum | tr ' ' -)
  if [ ! -f "$stamp" ]; then
    echo "installing $requirements into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
    touch "$stamp"
  fi
  PATH="$PWD/.venv/bin:$PATH"
}
