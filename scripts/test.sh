#!/usr/bin/env bash
# Set-up with the development extras, then ruff, mypy and pytest.
#   scripts/test.sh             everything
#   scripts/test.sh fast        without the slow tests
#   scripts/test.sh ARGUMENTS   ruff, mypy, then pytest with these arguments
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh

setup "[dev]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# A worker for each core; a test that measures time is a slow one and has the machine to itself.
if [ "${1:-}" = fast ]; then shift; set -- -m "not slow" -n auto "$@"; fi
export OMP_NUM_THREADS=1
.venv/bin/python -m pytest "$@"
