#!/usr/bin/env bash
# Set everything up and run the tests: bash launch/test.sh [pytest's arguments]
#
#   LOCKED=1   install the exact versions of requirements.lock, not the newest ones
#   -n 0       one test after the other in one process, as a debugger needs it; otherwise up to four processes
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
if [ "${LOCKED:-}" = 1 ]; then setup requirements.lock; else setup requirements.txt tests/requirements.txt; fi
# A file's tests share what they prepare, so each file goes to one process; each process has one core.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
