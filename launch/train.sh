#!/usr/bin/env bash
# Train: bash launch/train.sh {gta|synthia} NETWORK [base] [--target NAME] [KEY VALUE ...]
#
#   NETWORK     resnet101, vgg16, vgg16fcn; with timm encoders (docs/encoders.md): dinov2b, convnext, lite0
#   base        train the ABN baseline; without it, SAC, starting from RESUME
#   --target NAME   adapt to another data set of configs/domains, with its lists train_NAME and val_NAME; the run is
#                   {EXP_ID}[_abn]_{source}_NAME_{net}, its importance weights data/NAME_weights_{net}_{source}.data
#   RESUME      the baseline's snapshot that SAC starts from
#   IS_WEIGHTS  importance weights (default: data/cs_weights_{net}_{source}.data)
#   NUM_GPUS    processes on this machine (default: one per visible GPU, or one on the CPU)
#   EXP EXP_ID  names (default: v1 01): the run is {EXP_ID}[_abn]_{source}_{net}
#   NNODES NODE_RANK MASTER_ADDR MASTER_PORT   several machines
#
# Run the same command again to resume. Example:
#   RESUME=snapshots/cityscapes/v1/01_abn_gta_resnet101/epoch098_score0.412.pth bash launch/train.sh gta resnet101
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || fail "expected {gta|synthia} NETWORK [base] (see bash launch/train.sh --help)"
source=$1 net=$2; shift 2
overrides=()
case $source in
    gta) overrides+=(TRAIN.TASK train_game_9K) ;;
    synthia) overrides+=(TRAIN.TASK train_synthia_9K VAL.IGNORE_CLASS 9,14,16) ;;
    *) fail "unknown source $source: expected gta or synthia" ;;
esac
case $net in
    resnet101) config=deeplabv2_resnet101 ;;
    vgg16) config=deeplabv2_vgg16 ;;
    vgg16fcn) config=fcn_vgg16 ;;
    dinov2b | convnext | lite0) config=${net}_timm ;;
    *) fail "unknown network $net: expected resnet101, vgg16, vgg16fcn, dinov2b, convnext or lite0" ;;
esac
mode=sac pair=$source weighted=cs
if [ "${1:-}" = base ]; then mode=base; shift; fi
if [ "${1:-}" = --target ]; then
    target=${2:-}
    known=$(cd "$root/configs/domains" && for name in *.yaml; do
        name=${name%.yaml}; ! grep -q "^  train_$name:" "$name.yaml" || echo "$name"; done)
    grep -qxF -e "$target" <<<"$known" || fail "--target '$target': expected one of" $known
    shift 2
    if [ "$target" != cityscapes ]; then
        # The last list that exists selects the snapshots: the source's, so that target labels do not.
        own=val_game_1K; [ "$source" = gta ] || own=val_synthia
        overrides+=(TRAIN.TARGET "train_$target" VAL.LISTS "val_$target,$own")
        pair=${source}_$target weighted=$target
        echo "note: DATASET.TARGET_MEAN and TARGET_STD are Cityscapes' by default; see tools/dataset_stats.py" >&2
    fi
fi
[ $(($# % 2)) -eq 0 ] || fail "overrides must be KEY VALUE pairs, but ${!#} has no value"

exp=${EXP:-v1} id=${EXP_ID:-01}
folder_name EXP "$exp"
folder_name EXP_ID "$id"
count_processes
resume=$(from_here "${RESUME:-}")
weights=$(from_here "${IS_WEIGHTS:-}")
cd "$root"
if [ $mode = base ]; then
    run=${id}_abn_${pair}_${net}
else
    run=${id}_${pair}_${net} config=${config}_train
    last=snapshots/cityscapes/$exp/$run/last.pth
    [ -n "$resume" ] || [ -e "$last" ] ||
        fail "SAC starts from a baseline: set RESUME=snapshots/cityscapes/$exp/${id}_abn_${pair}_${net}/....pth"
    if [ -n "$weights" ]; then
        [ -e "$weights" ] || fail "IS_WEIGHTS=$weights does not exist; create it with tools/compute_image_weights.py"
    elif [ -e "data/${weighted}_weights_${net}_${source}.data" ]; then
        weights=data/${weighted}_weights_${net}_${source}.data
    else
        warning="warning: no data/${weighted}_weights_${net}_${source}.data: target images are drawn uniformly"
    fi
    [ -z "$weights" ] || overrides+=(DATASET.SAMPLE_WEIGHTS "$weights")
fi

log=logs/cityscapes/$exp/$run
mkdir -p "$log"
{
    [ -z "${warning:-}" ] || echo "$warning" >&2
    run_processes train.py --cfg "configs/$config.yaml" --exp="$exp" --run="$run" ${resume:+--resume "$resume"} \
        --set "${overrides[@]}" "$@"
} > >(keep "$log/train.out") 2> >(keep "$log/train.out" >&2)
