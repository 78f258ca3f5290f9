# Sourced by quickstart.sh and test.sh: makes .venv and installs this project, unless that is done already.
# setup EXTRAS    EXTRAS is "" or "[dev]"

setup() {
  local extras="$1" python="${PYTHON:-python3}" stamp=".venv/installed$1"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is missing or older than Python 3.11. Install a newer one, or say PYTHON=/path/to/python3." >&2
    exit 2
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # Installed already, from the same lists, at this place?
  if [ "$(cat "$stamp" 2>/dev/null)" = "$(cat pyproject.toml constraints.txt; pwd)" ]; then return; fi
  echo "Installing into .venv (torch is large: a minute or two) ..."
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".$extras"
  (cat pyproject.toml constraints.txt; pwd) > "$stamp"
}
