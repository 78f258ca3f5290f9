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
export OMP_NUM_THREADS=1
# Many tests start Python; none of them then compiles the package, also where PYTHONDONTWRITEBYTECODE is set.
.venv/bin/python -m compileall -q src
# A worker for each core, and one session, so that what tests share is made once and no core idles in between.
# No test measures time: speed is shown in the benchmark.
case "${1:-}" in
  "") .venv/bin/python -m pytest -n auto ;;
  fast) shift && .venv/bin/python -m pytest -m "not slow" -n auto "$@" ;;
  *) .venv/bin/python -m pytest "$@" ;;
esac
