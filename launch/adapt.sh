#!/usr/bin/env bash
# Every stage from checked data to the report: bash launch/adapt.sh {gta|synthia} NETWORK [options] [KEY VALUE ...]
#                                              bash launch/adapt.sh CONFIG.yaml [options] [KEY VALUE ...]
#
# Options and examples: bash launch/adapt.sh --help (--dry-run, --measure, --rows, --again, --seed)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec "$python" "$root/tools/adapt.py" "$@"
