#!/usr/bin/env bash
# Set everything up and run the tests: bash launch/test.sh [pytest's arguments]
#
#   LOCKED=1   install the exact versions of requirements.lock, not the newest ones
#   -n 0       run the tests one by one in a single process, as for a debugger; the default is up to four processes
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
if [ "${LOCKED:-}" = 1 ]; then setup requirements.lock; else setup requirements.txt tests/requirements.txt; fi
# The tests of a file share fixtures, so each file goes to one process; each process uses one core.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
