#!/usr/bin/env bash
# Sets everything up in .venv and runs the linter and all tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/setup.sh
use_venv tests/requirements.txt
ruff check .
ruff format --check .
exec python -m pytest "$@"
