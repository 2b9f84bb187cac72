#!/usr/bin/env bash
# Run every stage with the real tools on toy worlds: bash launch/demo.sh [--pretrained] [--seed N] [--rows NAMES]
#
#   --pretrained   with EfficientNet-Lite0 from ImageNet weights, a package of 17 MB: results/demo_pretrained/
#   --seed N       seed of the worlds and of training (default: 0)
#   --rows NAMES   as for launch/adapt.sh; source,abn,sac,oracle shows how far adaptation could get
#
# Needs no GPU and no data set. Results: results/demo/ (table, picture, summary.json, report); the worlds and runs of a
# seed are in results/demo/seedN/. Run it again to resume; remove results/demo/seedN to start afresh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac
task=demo requirements=(requirements.txt)
if [ "${1:-}" = --pretrained ]; then task=demo_pretrained requirements+=(requirements-encoders.txt); shift; fi
cd "$root"
setup "${requirements[@]}"
exec "$python" tools/adapt.py $task "$@"
