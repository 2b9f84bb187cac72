#!/usr/bin/env bash
# Predict masks for a list: bash launch/infer_val.sh
#
#   FILELIST    name or file of the list (default: val_cityscapes)
#   CONFIG      configuration (default: configs/deeplabv2_resnet101_train.yaml)
#   EXP RUN_ID  the run (default: v1 01_gta_resnet101)
#   SNAPSHOT    a snapshot of the run, or a path; .pth may be omitted (default: the run's best, else its last.pth)
#   OUTPUT_DIR  where the masks go (default: masks/EXP/RUN_ID/FILELIST; for
#               a snapshot from outside the run, masks/ITS_FOLDER/ITS_NAME/FILELIST)
#   NUM_GPUS    processes on this machine (default: one per visible GPU, or one on the CPU)
#
# Arguments are passed to infer_val.py, for example: bash launch/infer_val.sh --resume-output --save ids vis
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac
list=$(from_here "${FILELIST:-val_cityscapes}")
config=$(from_here "${CONFIG:-configs/deeplabv2_resnet101_train.yaml}")
exp=${EXP:-v1} run=${RUN_ID:-01_gta_resnet101}
name=$(basename "$list" .txt)
folder_name EXP "$exp"
folder_name RUN_ID "$run"
folder_name FILELIST "$name"
count_processes
output=${OUTPUT_DIR:-}
case $output in /* | "") ;; *) output=$PWD/$output ;; esac

folder=$root/snapshots/cityscapes/$exp/$run
if [ -n "${SNAPSHOT:-}" ]; then
    for snapshot in "$PWD/$SNAPSHOT" "$SNAPSHOT" "$root/$SNAPSHOT" "$folder/$SNAPSHOT"; do
        [ -f "$snapshot" ] || snapshot=$snapshot.pth
        [ ! -f "$snapshot" ] || break
    done
else
    # By the score in the name: the highest first; in a tie, the earlier one.
    snapshot=$(ls "$folder"/epoch*_score*.pth 2>/dev/null | sed 's/.*_score\(.*\)\.pth/\1 &/' | sort -k1,1r -k2 |
        head -n 1 | cut -d' ' -f2- || true)
    snapshot=${snapshot:-$folder/last.pth}
fi
[ -f "$snapshot" ] || fail "there is no snapshot ${SNAPSHOT:-$snapshot}: set SNAPSHOT, or EXP and RUN_ID ($folder)"
cd "$root"
if [ -z "$output" ]; then
    output=$root/masks/$exp/$run/$name
    # Masks of a snapshot from outside the run are kept apart from the run's own.
    real=$(cd "$(dirname "$snapshot")" && pwd -P)
    [ "$real" = "$(cd "$folder" 2>/dev/null && pwd -P)" ] ||
        output=$root/masks/$(basename "$real")/$(basename "$snapshot" .pth)/$name
fi
snapshot=${snapshot#"$root/"}
mkdir -p "$output"
{
    echo "predicting masks for $list with $snapshot"
    run_processes infer_val.py --cfg "$config" --exp="$exp" --run="$run" --resume "$snapshot" --infer-list "$list" \
        --mask-output-dir "$output" "$@"
} > >(keep "$output/infer.out") 2> >(keep "$output/infer.out" >&2)
