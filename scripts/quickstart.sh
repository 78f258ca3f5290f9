#!/usr/bin/env bash
# From a fresh clone to the result in miniature: set up, train eight small networks on the digits, report.
# Needs Python 3.11 or newer and nothing else; PYTHON=... chooses one.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.sh

setup "" # no extras
.venv/bin/python train.py -m experiment=quickstart
.venv/bin/python scripts/report.py logs/quickstart
