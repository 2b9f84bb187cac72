#!/usr/bin/env bash
# What to run first on a new GPU machine: bash launch/check_gpu.sh [--device cuda|cpu] [--out DIR]
#
#   --device cpu   try it out without a GPU, as far as possible
#   --out DIR      for the report (default: results/gpu)
#
# Takes up to 8 minutes on one card and needs no data set. Prints a table with pass or FAIL, and writes report.md, ready
# to paste into an issue, and report.json; exit status 1 on any failure.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case ${1:-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$root"
setup requirements.txt
exec "$python" tools/check_gpu.py "$@"
