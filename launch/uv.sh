# shellcheck shell=bash
# Sourced where a machine's own Python may be too old: `make_venv` makes .venv with Python 3.12, which
# uv fetches if it is not there. It needs no rights of an administrator.

make_venv() {
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv 2>/dev/null ||
      curl -LsSf https://astral.sh/uv/install.sh | sh
    uv venv --quiet --clear --seed --python 3.12 .venv
  fi
}
