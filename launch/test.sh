#!/usr/bin/env bash
# Sets everything up in .venv and runs the linter, the type checker and all tests, these in two
# processes, as many wait for others. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
use_venv tests/requirements.txt
ruff check .
ruff format --check .
mypy
exec python -m pytest -n 2 "$@"
