#!/bin/bash
# Build the message packages of interfaces/ into a virtual environment that holds the ROS 2 wheels.
#   usage: build_interfaces.sh VENV BUILD_FOLDER PACKAGE_FOLDER...
# Needs g++ and the interpreter's headers. Leaves nothing to set at run time.
set -euo pipefail
venv=$(readlink -f "$1"); build=$2; shift 2
python=$venv/bin/python
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE PYTHONPATH  # inherited from another environment, they would hide this one

# The wheels' exported CMake targets name the include folders of the machine they were built on; point them to ours.
include_python=$("$python" -c "import sysconfig; print(sysconfig.get_paths()['include'])")
include_numpy=$("$python" -c "import numpy; print(numpy.get_include())")
{ grep -rlE "/opt/python/cp3[0-9]+-cp3[0-9]+/(include|lib)" "$venv/share" --include=*.cmake || true; } | xargs -r sed -i -E \
  -e "s#/opt/python/cp3[0-9]+-cp3[0-9]+/lib/python3\.[0-9]+/site-packages/numpy/_?core/include#$include_numpy#g" \
  -e "s#/opt/python/cp3[0-9]+-cp3[0-9]+/include/python3\.[0-9]+#$include_python#g"

# What a ROS installation's setup.bash would export.
export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
LD_LIBRARY_PATH=$("$python" -c "import os; print(os.environ.get('LD_LIBRARY_PATH', ''))")
export LD_LIBRARY_PATH

build_one() {
  # Message structs are copied, not computed with: -O0 halves the build and costs nothing that can be measured.
  cmake -G Ninja -S "$1" -B "$2" -DCMAKE_INSTALL_PREFIX="$venv" -DPython3_EXECUTABLE="$python" -DBUILD_TESTING=OFF \
    -DCMAKE_C_FLAGS=-O0 -DCMAKE_CXX_FLAGS=-O0
  cmake --build "$2"
  cmake --install "$2"
}
pids=()
for source in "$@"; do
  build_one "$source" "$build/$(basename "$source")" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
