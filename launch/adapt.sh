#!/usr/bin/env bash
# Run every stage, from checking the data to the report:
#   bash launch/adapt.sh {gta|synthia} NETWORK [options] [KEY VALUE ...]
#   bash launch/adapt.sh CONFIG.yaml [options] [KEY VALUE ...]
#
#   --dry-run      print the plan: stages, commands, disk, memory; with --measure, also hours
#   --rows NAMES   what to train and compare, of source,abn,control,sac,oracle (default: abn,sac)
#   --target NAME  adapt gta or synthia to another data set of configs/domains, such as acdc (default: cityscapes)
#   --again STAGE  run a stage again, and all that depend on it
#   --seed N       random seed (default: 0)
#   NUM_GPUS EXP EXP_ID   as for launch/train.sh
#
# Each stage runs once; run the same command again to resume. See also python tools/adapt.py --help. Example:
#   bash launch/adapt.sh gta resnet101 --rows source,abn,sac,oracle TRAIN.MICRO_BATCH 2
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac
exec "$python" "$root/tools/adapt.py" "$@"
