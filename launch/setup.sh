# Sourced by the other launchers: the repository's root in $root, the Python to use in $python.
# setup FILE...: a virtual environment in the repository with these requirements, made once.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# PYTHON=... chooses another interpreter; otherwise the repository's environment, if there is one, or python3.
if [ -n "${PYTHON:-}" ]; then python=$PYTHON
elif [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python
else python=python3; fi

setup() {
    [ -n "${PYTHON:-}" ] && return
    # One stamp for each set of requirements: the demo and the tests share the environment.
    local stamp; stamp=$root/.venv/installed-$(cat "$@" | cksum | cut -d' ' -f1)
    [ -e "$stamp" ] && return
    echo "installing into $root/.venv (once; torch with CUDA takes 5 GB and some minutes)" >&2
    command -v python3 >/dev/null || { echo "error: no python3 on this machine; install Python 3.10 or newer" >&2; exit 2; }
    [ -x "$root/.venv/bin/python" ] || python3 -m venv "$root/.venv" ||
        { echo "error: python3 has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 2; }
    local file; local files=()
    for file in "$@"; do files+=(-r "$file"); done
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check "${files[@]}" >&2
    touch "$stamp"
    python=$root/.venv/bin/python
}

# A path as the caller means it: relative to where the launcher was called, else to the repository.
from_here() {
    case $1 in
        /* | "") printf '%s' "$1" ;;
        *) if [ -e "$PWD/$1" ]; then printf '%s' "$PWD/$1"; else printf '%s' "$1"; fi ;;
    esac
}

# keep FILE: what comes, to the screen and to a file; a signal to all of a run's processes does not end it too early.
keep() {
    trap '' TERM INT
    exec tee -a "$1"
}

# run_processes COMMAND...: python COMMAND, under torchrun where there are several GPUs (NUM_GPUS, or what is there) or
# machines (NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT); core/torchrun.py is torchrun with a better end. SIGTERM and
# SIGINT reach the processes, which end in their own way; the exit status is theirs.
run_processes() {
    local gpus=${NUM_GPUS:-}
    if [ -z "$gpus" ]; then
        gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU') || true
    fi
    [[ $gpus =~ ^[0-9]+$ ]] || { echo "error: NUM_GPUS=$gpus: expected a number" >&2; return 2; }
    [ "$gpus" -gt 0 ] || gpus=1
    if [ "$gpus" = 1 ] && [ "${NNODES:-1}" = 1 ]; then
        "$python" "$@" &
    else
        local where=(--standalone)
        if [ "${NNODES:-1}" != 1 ]; then
            [ -n "${NODE_RANK:-}" ] && [ -n "${MASTER_ADDR:-}" ] ||
                { echo "error: NNODES=$NNODES needs NODE_RANK and MASTER_ADDR too" >&2; return 2; }
            where=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR"
                --master_port "${MASTER_PORT:-29500}")
        fi
        local threads=$(($(getconf _NPROCESSORS_ONLN) / gpus))
        OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))} \
            "$python" -m core.torchrun "${where[@]}" --nproc_per_node "$gpus" -- "$@" &
    fi
    local child=$! status=127 result signalled
    trap 'signalled=yes; kill -TERM $child 2>/dev/null || true' TERM INT
    # A signal interrupts the waiting, not what is waited for.
    while signalled=; do
        wait "$child" && result=0 || result=$?
        [ "$result" = 127 ] || status=$result
        [ -n "$signalled" ] || break
    done
    trap - TERM INT
    return "$status"
}
