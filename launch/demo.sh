#!/usr/bin/env bash
# Every stage of the method with the real tools, on toy worlds: bash launch/demo.sh [--seed N] [--oracle]
#
#   --seed N    of the worlds and of the training (default: 0)
#   --oracle    also train on the target's labels, to see how far adaptation could get
#
# Needs no GPU and no data set. Results: results/demo/ (table, pictures, summary.json, report); the worlds and runs of a
# seed are in results/demo/seedN/. An interrupted demo goes on where it was; remove results/demo/seedN to start afresh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

seed=0 oracle=no
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --seed) seed=${2:-}; shift 2 || fail "--seed needs a number" ;;
        --oracle) oracle=yes; shift ;;
        *) fail "unknown argument $1 (see bash launch/demo.sh --help)" ;;
    esac
done
number --seed "$seed" 0 999999999
cd "$root"
setup requirements.txt

home=results/demo/seed$seed data=results/demo/seed$seed/data
mkdir -p "$home"

py() {
    attended "$python" "$@"
    [ -z "$asked" ] || exit "$asked"
}

# stage NAME COMMAND...: once; its seconds go to stages.tsv, which also says that it is done.
stage() {
    local name=$1 start=$SECONDS; shift
    if cut -f1 "$home/stages.tsv" 2>/dev/null | grep -qx "$name"; then return; fi
    echo "== $name" >&2
    "$@"
    printf '%s\t%s\n' "$name" $((SECONDS - start)) >>"$home/stages.tsv"
}
convert() {
    py tools/convert_train_ids.py --dataset gta --ann-data $data/game/labels --ann-out $data/game/labels_cs
    py tools/convert_train_ids.py --dataset cs --ann-data $data/cityscapes/gtFine --ann-out $data/cityscapes/gtFine2
}
train() { # RUN CONFIG [ARGUMENT ...]
    local run=$1 config=$2; shift 2
    py train.py --cfg "configs/$config.yaml" --exp demo --run "$run" --seed "$seed" --workers 1 \
        --snapshot-dir $home/snapshots --logdir $home/logs "$@"
}
infer() { # RUN CONFIG LIST [ARGUMENT ...]
    local run=$1 config=$2 list=$3; shift 3
    py infer_val.py --cfg "configs/$config.yaml" --resume "$home/snapshots/cityscapes/demo/$run/last.pth" \
        --infer-list "$list" --mask-output-dir "$home/masks/$run/$list" --resume-output --scales 0.5 \
        --set DATASET.ROOT $data "$@"
}
evaluate() { # RUN
    py tools/evaluate.py --predictions "$home/masks/$1/val_cityscapes" --list val_cityscapes --root $data \
        --json "$home/$1.json" --force
}

stage worlds py tools/make_streets.py --out $data --seed "$seed" --worlds gta,cityscapes --calm \
    --gta 400 --gta-size 240x132 --size 256x128
stage convert convert
stage lists py tools/make_lists.py --root $data --out $data
stage baseline train baseline demo --set DATASET.ROOT $data
stage infer_target infer baseline demo train_cityscapes
stage weights py tools/compute_image_weights.py --labels $home/masks/baseline/train_cityscapes \
    --out $home/cs_weights.data --force
stage sac train sac demo_train --resume $home/snapshots/cityscapes/demo/baseline/last.pth \
    --set DATASET.ROOT $data DATASET.SAMPLE_WEIGHTS $home/cs_weights.data
stage infer_baseline infer baseline demo val_cityscapes
stage infer_sac infer sac demo_train val_cityscapes
stage evaluate_baseline evaluate baseline
stage evaluate_sac evaluate sac
if [ $oracle = yes ]; then
    stage oracle train oracle demo --set DATASET.ROOT $data TRAIN.TASK train_cityscapes DATASET.RENORM_SOURCE False \
        TRAIN.NUM_EPOCHS 11
    stage infer_oracle infer oracle demo val_cityscapes
    stage evaluate_oracle evaluate oracle
fi
py tools/report.py $home/logs/cityscapes/demo/baseline $home/logs/cityscapes/demo/sac --out results/demo/report \
    --root $data --force --masks baseline=$home/masks/baseline/val_cityscapes sac=$home/masks/sac/val_cityscapes
py tools/summarise_demo.py --folder "$home" --out results/demo --seed "$seed" --force
