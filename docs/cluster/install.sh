#!/usr/bin/env bash
# install.sh VENV: all that requirements.lock holds, and skdtune from this checkout, into a virtual
# environment that is there. uv, held by its own line of the lock, loads and compiles on all cores;
# where it cannot, as behind an index that only pip is told of, pip does it.
set -euo pipefail
venv=${1:?"usage: install.sh VENV"}
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
lock=$checkout/requirements.lock

with_pip() { "$venv/bin/python" -m pip install --quiet "$@"; }

sed -n '/^uv==/,/[^\\]$/p' "$lock" | with_pip --require-hashes -r /dev/stdin
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --compile-bytecode --require-hashes \
  -r "$lock" || { echo "uv could not do it, pip does" && with_pip --require-hashes -r "$lock"; }
with_pip --no-deps --no-build-isolation -e "$checkout"
