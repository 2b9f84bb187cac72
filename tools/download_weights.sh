#!/usr/bin/env bash
# The authors' importance weights, to data/. Options and examples: bash tools/download_weights.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
[[ -x $python ]] || python=python3
exec "$python" "$root/tools/download.py" weights "$@"
