#!/usr/bin/env bash
# Write masks of a list: bash launch/infer_val.sh
#
#   FILELIST    name or file of the list (default: val_cityscapes)
#   CONFIG      configuration (default: configs/deeplabv2_resnet101_train.yaml)
#   EXP RUN_ID  the run (default: v1 01_gta_resnet101)
#   SNAPSHOT    a snapshot of the run, or a path (default: the run's best, else its last.pth)
#   OUTPUT_DIR  where the masks go (default: masks/EXP/RUN_ID/FILELIST)
#   NUM_GPUS    processes on this machine (default: its GPUs, or one on the CPU)
#
# Arguments go to infer_val.py, for example: bash launch/infer_val.sh --resume-output --save ids vis
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

fail() { echo "error: $*" >&2; exit 2; }
case ${1:-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
list=$(from_here "${FILELIST:-val_cityscapes}")
config=$(from_here "${CONFIG:-configs/deeplabv2_resnet101_train.yaml}")
exp=${EXP:-v1} run=${RUN_ID:-01_gta_resnet101}
snapshot=$(from_here "${SNAPSHOT:-}")
name=$(basename "$list" .txt)
output=${OUTPUT_DIR:-$root/masks/$exp/$run/$name}
case $output in /*) ;; *) output=$PWD/$output ;; esac

cd "$root"
folder=snapshots/cityscapes/$exp/$run
if [ -z "$snapshot" ]; then
    # The score stands in the name; the highest comes first.
    snapshot=$(ls "$folder"/epoch*_score*.pth 2>/dev/null | sort -t_ -k2 | sed 's/.*_score\(.*\)\.pth/\1 &/' | sort -r |
        head -n 1 | cut -d' ' -f2- || true)
    snapshot=${snapshot:-$folder/last.pth}
elif [ ! -e "$snapshot" ] && [ -e "$folder/$snapshot" ]; then
    snapshot=$folder/$snapshot
fi
[ -e "$snapshot" ] || fail "no snapshot $snapshot: set SNAPSHOT, or EXP and RUN_ID"
mkdir -p "$output"
echo "masks of $list by $snapshot"
run_processes infer_val.py --cfg "$config" --resume "$snapshot" --infer-list "$list" --mask-output-dir "$output" "$@" \
    > >(keep "$output/infer.out") 2> >(keep "$output/infer.out" >&2)
