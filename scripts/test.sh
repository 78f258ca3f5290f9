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
if [ "${1:-}" = fast ]; then shift; set -- -m "not slow" "$@"; fi
.venv/bin/python -m pytest "$@"
