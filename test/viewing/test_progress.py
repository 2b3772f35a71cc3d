"""Progress: what is seen of it at any width, and where there is no terminal; how long the rest takes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.viewing.progress import Pace

SHOWN = """
import itertools, time
from vla_ros.viewing.progress import Progress
times = itertools.count(0.0, {step})
with Progress(clock=lambda: next(times)) as show:
    show("image tokenizer", 500, 20000, "")
    show("image tokenizer", 750.5, 20000, "total 2.675  squared 0.254  pixels 0.411  hardest 0.979 " * 3)
    show.print("seed 3 [rad] [mm]")
    show("describe", 3, 40, "a red\\ncube \\x1b[2J on \\r the table " * 9)
    time.sleep({pause})
    show("describe", 40, 40, "")
"""


def shown_on_a_terminal(columns: int) -> list[str]:
    """Every line that a terminal of so many columns gets, without colours."""
    theirs, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    code = SHOWN.format(step=1.0, pause=0.6)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=ours, stdout=ours, stderr=ours, env=environment, start_new_session=True
    )
    os.close(ours)
    got = b""
    try:
        while more := os.read(theirs, 65536):
            got += more
    except OSError:  # the other side is closed
        pass
    assert process.wait(30) == 0, got.decode()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", got.decode())
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", plain))


@pytest.mark.parametrize("columns", [80, 120])
def test_bar_count_and_time_left_stay_within_the_terminal(columns: int) -> None:
    lines = shown_on_a_terminal(columns)
    joined = "\n".join(lines)
    assert re.search(r"image tokenizer *[━╸╺ ]+ *750/20000 +0:00:\d\d +[\d:]+ left", joined), lines
    assert re.search(r"describe *[━╸╺ ]+ *3/40 ", joined), lines
    assert "seed 3 [rad] [mm]" in joined
    assert max(map(len, lines)) <= columns


def test_without_a_terminal_lines_come_at_intervals() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOWN.format(step=6.0, pause=0.0)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "seed 3 [rad] [mm]\n", "results alone"
    lines = [line.partition(" ")[2] for line in done.stderr.splitlines()]
    assert lines[0] == "image tokenizer 500/20000"
    assert lines[1].startswith("describe 3/40  a red cube"), "what came 6 s later is not shown"
    assert lines[2:] == ["describe 40/40"]
    assert all(line.isprintable() for line in lines)


@given(first=st.integers(0, 50), whole=st.integers(1, 50), rest=st.integers(0, 50), each_s=st.floats(0.1, 100.0))
def test_the_rest_takes_as_long_as_what_was_done(first: int, whole: int, rest: int, each_s: float) -> None:
    pace, total = Pace(), first + whole + rest
    assert pace.left_s(5.0, first, total) is None, "what lay there before took no time"
    assert pace.left_s(9.0, first, total) is None, "nor did the preparation"
    assert pace.left_s(9.0 + whole * each_s, first + whole, total) == pytest.approx(rest * each_s)


def test_a_part_counts_until_a_whole_is_done() -> None:
    pace = Pace()
    pace.left_s(0.0, 0, 10)
    assert pace.left_s(1.0, 0.01, 10) is None
    assert pace.left_s(10.0, 0.5, 10) == pytest.approx(190.0)
    assert pace.left_s(20.0, 1.0, 10) == pytest.approx(180.0)
    assert pace.left_s(30.0, 1.5, 10) == pytest.approx(255.0), "by whole ones"
