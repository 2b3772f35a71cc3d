#!/bin/bash
# Make .venv: system libraries, pinned Python packages with ROS 2 in them, message packages. Does only what is missing.
#   PYTHON=python3.12 scripts/setup.sh     to choose the interpreter (3.10 to 3.14)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shopt -s nullglob
venv=.venv
log=$PWD/runs/setup.log

say() { echo "setup: $*" >&2; }
stop() { say "$*"; exit 1; }
hash_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }
is_done() { [ "$(cat "$venv/.done_$1" 2>/dev/null)" = "$2" ]; }
mark_done() { echo "$2" > "$venv/.done_$1"; }
# logged WHAT COMMAND...: say what, keep the command's output in the log, and show its end if it fails
logged() {
  local what=$1 start=$SECONDS; shift
  say "$what ..."
  if ! "$@" >> "$log" 2>&1; then
    tail -n 25 "$log" >&2
    stop "failed: $what; all of the output is in $log"
  fi
  say "$what: done in $((SECONDS - start)) s"
}

packages_key=$(hash_of requirements.lock setup.py)
interfaces_key=$(hash_of requirements.lock scripts/build_interfaces.sh $(find interfaces -mindepth 2 -type f | sort))
everything_done() {
  is_done packages "$packages_key" && is_done interfaces "$interfaces_key" && is_done system "$(hash_of scripts/setup.sh)"
}
everything_done && exit 0
mkdir -p runs
exec 9> runs/setup.lock && flock 9  # two makes side by side: the second waits, and then finds all done
everything_done && exit 0
: > "$log"

# 1. What only the system can give -------------------------------------------------------------------------------
[ "$(uname -sm)" = "Linux x86_64" ] || stop "the ROS 2 wheels exist for Linux on x86_64 only (here: $(uname -sm)); on other machines install ROS 2 and use colcon, see README.md"
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10} ""; do
  [ -z "$python" ] && stop "needs Python 3.10 to 3.14; try: apt-get install python3 python3-venv python3-dev, or PYTHON=/path/to/one make setup"
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2> /dev/null && break
done
missing=()
need() { dpkg-query -W -f '${Status}' "$1" 2> /dev/null | grep -q ' installed' || missing+=("$1"); }
if command -v dpkg-query > /dev/null; then
  for package in libegl1 libegl-mesa0 libopengl0 libgl1-mesa-dri; do need $package; done  # the renderer: EGL on Mesa
  command -v g++ > /dev/null || missing+=(g++)                                              # the message packages
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' || need python3-dev
  "$python" -c 'import ensurepip' 2> /dev/null || need python3-venv
  # Only two tests want `ip`, so it is no reason to bother those who are not root.
  [ "$(id -u)" -ne 0 ] || command -v ip > /dev/null || missing+=(iproute2)
else
  say "not a Debian or Ubuntu: a C++ compiler, Python headers, EGL with Mesa's software renderer are taken to be there"
fi
if [ ${#missing[@]} -gt 0 ]; then
  install=(apt-get install -y --no-install-recommends "${missing[@]}")
  [ "$(id -u)" -eq 0 ] || stop "missing system packages; please type:  sudo ${install[*]}"
  export DEBIAN_FRONTEND=noninteractive
  logged "system packages ${missing[*]}" bash -c "apt-get update; ${install[*]}"
fi

# 2. The virtual environment --------------------------------------------------------------------------------------
"$venv/bin/python" -m pip --version > /dev/null 2>&1 || logged "virtual environment of $("$python" --version)" "$python" -m venv --clear "$venv"
mark_done system "$(hash_of scripts/setup.sh)"
if ! is_done packages "$packages_key"; then
  pip=("$venv/bin/python" -m pip install --disable-pip-version-check)
  logged "Python packages of requirements.lock" "${pip[@]}" -r requirements.lock
  logged "vla_ros itself" "${pip[@]}" --no-deps --no-build-isolation --editable .
  mark_done packages "$packages_key"
fi

# 3. Message packages, unless somebody else's are there -----------------------------------------------------------
if ! is_done interfaces "$interfaces_key"; then
  sources=()
  for source in interfaces/*/; do
    name=$(basename "$source")
    # Ours carry this mark; any other package of the name is upstream's own and stays.
    if [ -e "$venv/share/$name/built_by_vla_ros" ] || ! "$venv/bin/python" -c "import $name" 2> /dev/null; then
      sources+=("$source")
    fi
  done
  if [ ${#sources[@]} -gt 0 ]; then
    build=$(mktemp -d); trap 'rm -rf "$build"' EXIT
    logged "message packages (${sources[*]})" scripts/build_interfaces.sh "$venv" "$build" "${sources[@]}"
    for source in "${sources[@]}"; do touch "$venv/share/$(basename "$source")/built_by_vla_ros"; done
  fi
  mark_done interfaces "$interfaces_key"
fi
say "ready: $venv"
