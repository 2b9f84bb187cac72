#!/usr/bin/env bash
# Downloads: each command below is a link to this file. Options and examples: --help
#
#   bash tools/download_imagenet.sh    ImageNet weights of ResNet-101 and VGG-16, to models/pretrained/
#   bash tools/download_snapshots.sh   the authors' trained networks, to snapshots/
#   bash tools/download_weights.sh     the authors' importance weights, to data/
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/setup.sh"
name=$(basename "$0" .sh)
exec "$python" "$root/tools/download.py" "${name#download_}" "$@"
