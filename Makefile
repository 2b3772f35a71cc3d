# `make demo` and `make test` do all the set-up there is to do; a second run starts at once.
# Everything runs on the ROS 2 wheels in .venv, apart from any ROS installation whose setup.bash was sourced; with such
# an installation use colcon instead (README.md).
SHELL := /bin/bash
BIN := .venv/bin
# What Python has compiled it keeps: hundreds of processes are started, each of which would compile it again.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH ROS_DISTRO _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help setup demo test test-full test-lerobot format clean

help:
	@echo "make demo       set up, then 20 seeded lifts of a simulated Franka through ROS 2, headless"
	@echo "make test       set up, then every check;  make test-full  the same with full counts (long)"
	@echo "make test-lerobot  try with LeRobot itself (up to 16 GB of environments) that it and vla_ros read each other's data"
	@echo "make format     put the code into its form"
	@echo "make setup      set up only (PYTHON=python3.12 chooses the interpreter);  make clean  undo it"

setup:
	@scripts/setup.sh

demo: setup
	$(BIN)/vla-ros run franka_upvla --episodes 20 --seed 0 --report runs/demo/report.json --require-successes 19

test: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(HANGS) -n auto --dist loadfile --ignore test/ros
	$(BIN)/pytest $(HANGS) -n 1 test/ros  # on time, so one after the other

# A test that hangs fails and prints where it stands; it ends its worker, not the run.
HANGS := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
test-full: HANGS := -o faulthandler_timeout=7200 -o faulthandler_exit_on_timeout=true

# Threads that wait for each other cost more than they bring.
test: export OPENBLAS_NUM_THREADS := 1
test: export OMP_NUM_THREADS := 1

test-full: export VLA_ROS_FULL := 1
test-full: test

test-lerobot: setup
	scripts/test_lerobot.sh

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .venv-lerobot-* build install log runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
