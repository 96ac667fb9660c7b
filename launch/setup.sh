# shellcheck shell=bash
# Sourced by the scripts here: `use_venv FILE …` makes .venv once and enters it. It holds the packages
# of requirements.txt, launch/requirements-prepare.txt and the files.

use_venv() {
  local files=(requirements.txt launch/requirements-prepare.txt "$@") python=${PYTHON:-python3} stamp
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "error: noah_jax needs Python 3.11 or newer; name one with PYTHON=/path/to/python" >&2
      exit 1
    }
    "$python" -m venv --clear .venv
  fi
  stamp=.venv/installed-$(cat "${files[@]}" | cksum | tr ' ' -)
  if [ ! -f "$stamp" ]; then
    echo "installing ${files[*]} into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${files[@]/#/--requirement=}"
    touch "$stamp"
  fi
  PATH="$PWD/.venv/bin:$PATH"
}
