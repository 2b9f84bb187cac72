#!/usr/bin/env bash
# The authors' trained networks, to snapshots/. Options and examples: bash tools/download_snapshots.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
[[ -x $python ]] || python=python3
exec "$python" "$root/tools/download.py" snapshots "$@"
