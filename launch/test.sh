#!/usr/bin/env bash
# Sets everything up in .venv and runs the linter, the type checker and all tests, these in two
# processes and beside the type checker, as many wait for others. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
use_venv launch/requirements-{images,serve,docs}.txt tests/requirements.txt
ruff check .
ruff format --check .
mypy &
python -m pytest -n 2 "$@"
wait $! || { echo "error: mypy has found something, see above" >&2; exit 1; }
