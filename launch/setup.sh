# Sourced by the other launchers: sets $root, the repository's root, and $python, the Python to use.

# If stdout or stderr is closed, the next file opened would take its place and receive what is printed.
{ true >&1; } 2>/dev/null || exec >/dev/null
true >&2 || exec 2>/dev/null

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A path as the caller means it: relative to the caller's directory if it exists there, else to the repository.
from_here() {
    case $1 in
        /* | "") printf '%s' "$1" ;;
        *) if [ -e "$PWD/$1" ]; then printf '%s' "$PWD/$1"; else printf '%s' "$1"; fi ;;
    esac
}

# PYTHON=... selects an interpreter; otherwise it is that of the repository's environment, if there is one, or python3.
if [ -n "${PYTHON:-}" ]; then python=$(from_here "$PYTHON")
elif [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python
else python=python3; fi

fail() { echo "error: $*" >&2; exit 2; }

# Prints the calling launcher's first comment.
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; }

# setup FILE...: creates a virtual environment with these requirements in the repository, once; completes an interrupted
# setup.
setup() {
    [ -n "${PYTHON:-}" ] && return
    # One stamp per set of requirements: the demo and the tests share the environment.
    local venv=$root/.venv stamp said file files=()
    stamp=$venv/installed-$(cat "$@" | cksum | cut -d' ' -f1)
    if [ -e "$stamp" ]; then return; fi
    for file in "$@"; do files+=(-r "$file"); done
    echo "installing into $venv (once; torch with CUDA takes 5 GB and a few minutes)" >&2
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
            fail "python3 is not Python 3.10 or newer; install it, or set PYTHON to one that has the requirements"
        said=$(python3 -m venv "$venv" 2>&1) && "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
            fail "python3 -m venv cannot make $venv (Debian: apt-get install python3-venv; else remove $venv):" $said
    fi
    python=$venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check "${files[@]}" >&2 ||
        fail "pip could not install the requirements; run the same command to try again"
    touch "$stamp"
}

# folder_name VARIABLE VALUE: the value must be the name of a folder, not a path.
folder_name() {
    case $2 in
        "" | . | .. | */* | *\\* | *[![:print:]]*) fail "$1=$2: expected the name of a folder, without slashes" ;;
    esac
    [ ${#2} -le 100 ] || fail "$1: expected a name of at most 100 characters, got ${#2}"
}

# number VARIABLE VALUE LOW HIGH: the value must be a whole number in this range.
number() {
    [[ $2 =~ ^[0-9]{1,9}$ ]] && [ $((10#$2)) -ge "$3" ] && [ $((10#$2)) -le "$4" ] ||
        fail "$1=$2: expected a number from $3 to $4"
}

# keep FILE: copies its input to the screen and to a file. Neither a signal to all of a run's processes nor a closed
# pipe ends it early; what the screen does not take still goes to the file.
keep() {
    trap '' TERM INT PIPE
    exec tee -a "$1" 2>/dev/null
}

# The number of GPUs visible to CUDA: those in CUDA_VISIBLE_DEVICES (by number or UUID, or parts of one by MIG
# name), up to the first that does not exist; none if one is listed twice.
visible_gpus() {
    local there name names=() seen=, count=0
    there=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU') || true
    if [ "$there" = 0 ] || [ -z "${CUDA_VISIBLE_DEVICES+set}" ]; then echo "$there"; return; fi
    IFS=, read -ra names <<<"${CUDA_VISIBLE_DEVICES//[[:space:]]/}"
    for name in ${names[@]+"${names[@]}"}; do
        case $name in
            GPU-* | MIG-*) ;;
            "" | *[!0-9]*) break ;;
            *) [ ${#name} -le 9 ] && name=$((10#$name)) && [ "$name" -lt "$there" ] || break ;;
        esac
        case $seen in *,"$name",*) count=0; break ;; esac
        seen+=$name, count=$((count + 1))
    done
    [ $count -gt 0 ] || case $CUDA_VISIBLE_DEVICES in
        "" | -1) ;;
        *) echo "warning: CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES: CUDA sees none of the $there GPUs" >&2 ;;
    esac
    echo $count
}

# count_processes: sets $gpus, the number of processes to start here (NUM_GPUS, else one per visible GPU, or one on the
# CPU), and $where, torchrun's options (on several machines from NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT).
count_processes() {
    local name nodes=${NNODES:-1}
    "$python" -c '' 2>/dev/null || fail "$python does not run: set PYTHON to another Python (README.md, Install)"
    for name in RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE; do
        case $name=${!name:-} in
            *= | *RANK=0 | *SIZE=1) ;;
            *) fail "$name=${!name} is set, but launchers start the processes themselves: unset $name" \
                "(several machines: NNODES, NODE_RANK, MASTER_ADDR)" ;;
        esac
    done
    gpus=${NUM_GPUS:-}
    [ -n "$gpus" ] || gpus=$(visible_gpus)
    number NUM_GPUS "$gpus" 0 1024
    number NNODES "$nodes" 1 100000
    gpus=$((10#$gpus)) nodes=$((10#$nodes)) where=(--standalone)
    [ $gpus -gt 0 ] || gpus=1
    if [ $nodes -gt 1 ]; then
        number NODE_RANK "${NODE_RANK:-}" 0 $((nodes - 1))
        number MASTER_PORT "${MASTER_PORT:-29500}" 1 65535
        [ -n "${MASTER_ADDR:-}" ] || fail "NNODES=$nodes needs MASTER_ADDR, the address of the machine with NODE_RANK=0"
        where=(--nnodes "$nodes" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR"
            --master_port "${MASTER_PORT:-29500}")
    elif [ $gpus = 1 ]; then
        where=()
    fi
}

# run_processes COMMAND...: runs python COMMAND, under torchrun if count_processes says so; core/torchrun.py is torchrun
# with cleaner exits.
run_processes() {
    if [ ${#where[@]} = 0 ]; then
        attended "$python" "$@"
    else
        local threads=$(($(getconf _NPROCESSORS_ONLN) / gpus))
        OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))} attended \
            "$python" -m core.torchrun "${where[@]}" --nproc_per_node "$gpus" -- "$@"
    fi
}

# attended COMMAND...: passes SIGTERM and SIGINT on to the command, which ends in its own way; returns its exit status.
# $asked is the status of an end by signal, 143 or 130; a training that is asked to end returns 0 once all is written.
attended() {
    local child= status=127 result signalled=
    asked=
    # Both are sent as SIGTERM: what bash starts in the background ignores SIGINT.
    local stop='signalled=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true'
    trap "asked=143; $stop" TERM
    trap "asked=130; $stop" INT
    "$@" &
    child=$!
    [ -z "$signalled" ] || kill -TERM "$child" || true
    # A signal interrupts `wait`, not the command.
    while signalled=; do
        wait "$child" && result=0 || result=$?
        [ "$result" = 127 ] || status=$result
        [ -n "$signalled" ] || break
    done
    trap - TERM INT
    if [ "$status" = 143 ]; then status=${asked:-143}; fi
    return "$status"
}
