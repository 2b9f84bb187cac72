#!/usr/bin/env bash
# ImageNet weights of ResNet-101 and VGG-16, to models/pretrained/. Options and examples: bash tools/download_imagenet.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
[[ -x $python ]] || python=python3
exec "$python" "$root/tools/download.py" imagenet "$@"
