#!/usr/bin/env bash
# Every stage of the method with the real tools, on toy worlds: bash launch/demo.sh [--seed N] [--rows source,abn,sac,oracle]
#
# Needs no GPU and no data set. Results: results/demo/ (table, picture, summary.json, report); the worlds and runs of a
# seed are in results/demo/seedN/. An interrupted demo resumes where it was; remove results/demo/seedN to start afresh.
# This is launch/adapt.sh on rendered data; more options: bash launch/demo.sh --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case " $* " in *" -h "* | *" --help "*) ;; *) setup requirements.txt ;; esac
exec "$python" "$root/tools/adapt.py" demo "$@"
