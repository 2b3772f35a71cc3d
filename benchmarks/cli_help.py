"""How long `vla-ros --help` takes, against the limit of half a second."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMIT_S = 0.5
RUNS = 15


def main() -> None:
    command = [sys.executable, "-m", "vla_ros", "--help"]
    seconds = []
    for _ in range(RUNS):
        start_s = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start_s)
    median_s = statistics.median(seconds)
    print(f"median {median_s:.2f} s, worst {max(seconds):.2f} s of {RUNS} runs; {median_s / LIMIT_S:.2f} of the limit")


if __name__ == "__main__":
    main()
