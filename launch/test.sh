#!/usr/bin/env bash
# Set everything up and run the tests: bash launch/test.sh [pytest's arguments]
#
#   LOCKED=1   install the exact versions of requirements.lock, not the newest ones
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
if [ "${LOCKED:-}" = 1 ]; then setup requirements.lock; else setup requirements.txt tests/requirements.txt; fi
exec "$python" -m pytest "$@"
