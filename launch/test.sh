#!/usr/bin/env bash
# Set everything up and run the tests: bash launch/test.sh [pytest's arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
setup requirements.txt tests/requirements.txt
exec "$python" -m pytest "$@"
