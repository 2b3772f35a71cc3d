#!/bin/bash
# Try with LeRobot itself that it reads what vla_ros writes, and vla_ros what LeRobot writes: with the two releases that
# write format v3.0, each in an environment of its own, .venv-lerobot-RELEASE, which stays.
#   scripts/test_lerobot.sh [RELEASE...]
#   LEROBOT_PIP_ARGUMENTS="--index-url ..."   for PyTorch alone: an index of builds for the CPU makes 1 GB of 8 GB
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
shopt -s nullglob
work=$PWD/runs/lerobot
[ $# -gt 0 ] || set -- 0.4.4 0.6.1

say() { echo "test-lerobot: $*" >&2; }
# python_of VERSION: an interpreter of that version, on the path or from pyenv
python_of() {
  local python
  for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    if "$python" -c "import sys; sys.exit(sys.version_info[:2] != (${1/./, }))" 2> /dev/null; then echo "$python"; return; fi
  done
  say "needs Python $1"; return 1
}
# make_environment FOLDER PYTHON REQUIREMENT: LeRobot with the newest PyTorch that both releases take
make_environment() {
  local python packages=(torch==2.10.0 torchvision==0.25.0) pip=("$1/bin/python" -m pip install --disable-pip-version-check)
  [ -e "$1/.done" ] && return
  # Joined by &&, because -e does not act in a function that is asked whether it failed.
  python=$(python_of "$2") && "$python" -m venv --clear "$1" &&
    if [ -n "${LEROBOT_PIP_ARGUMENTS:-}" ]; then "${pip[@]}" $LEROBOT_PIP_ARGUMENTS "${packages[@]}"; fi &&
    "${pip[@]}" "${packages[@]}" torchcodec==0.10.0 "$3" && touch "$1/.done"
} >> "$work/setup.log" 2>&1
# link_ffmpeg FOLDER: names under which torchcodec finds the FFmpeg that PyAV brings, where the system has none
link_ffmpeg() {
  local site file; site=$(echo "$1"/lib/python3*/site-packages)
  mkdir -p "$1/ffmpeg"
  for file in "$PWD/$site"/av.libs/lib{av,sw}*.so.*; do
    ln -sf "$file" "$1/ffmpeg/$(basename "$file" | sed -E 's/-[0-9a-f]+\.so\.([0-9]+).*/.so.\1/')"
  done
  echo "$PWD/$1/ffmpeg:$PWD/$site/av.libs"
}

rm -rf "$work"; mkdir -p "$work"
export HF_HUB_OFFLINE=1 HF_HOME=$work/huggingface PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
say "datasets of ours ..."
.venv/bin/python test/lerobot/write_ours.py "$work"
for release in "$@"; do
  case $release in
    0.4.*) python=3.11 extra="" ;;
    *) python=3.12 extra="[dataset]" ;;
  esac
  environment=.venv-lerobot-$release
  [ -e "$environment/.done" ] || say "LeRobot $release into $environment, up to 8 GB ..."
  make_environment "$environment" $python "lerobot$extra==$release" || { tail -n 25 "$work/setup.log" >&2; exit 1; }
  say "LeRobot $release reads them ..."
  LD_LIBRARY_PATH=$(link_ffmpeg "$environment"):${LD_LIBRARY_PATH:-} \
    "$environment/bin/python" test/lerobot/load_ours.py "$work"
  say "a dataset of LeRobot's $release ..."
  mkdir "$work/$release"
  "$environment/bin/python" test/lerobot/write_theirs.py "$work/$release" > "$work/$release/log" 2>&1 \
    || { tail -n 25 "$work/$release/log" >&2; exit 1; }
  .venv/bin/python test/lerobot/read_theirs.py "$work/$release"
done
say "passed: LeRobot $* and vla_ros read each other's datasets"
