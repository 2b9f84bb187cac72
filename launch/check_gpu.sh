#!/usr/bin/env bash
# What to run first on a new GPU machine: bash launch/check_gpu.sh [--device cuda|cpu] [--out DIR]
#
#   --device cpu   rehearse without a GPU: every line that can be
#   --out DIR      for the report (default: results/gpu)
#
# Within 8 minutes on one card; no data set is needed. Prints a table with pass or FAIL and writes report.md, fit to be
# pasted into an issue, and report.json; exit status 1 on any failure.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case ${1:-} in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$root"
setup requirements.txt
exec "$python" tools/check_gpu.py "$@"
