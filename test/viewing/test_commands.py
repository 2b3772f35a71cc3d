"""The picture of commands: what it shows is what was commanded, against the limits that were given."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vla_ros.control.limits import AxisLimits, LimitsConfig
from vla_ros.robots.panda import PANDA
from vla_ros.timing.stamps import s_to_ns
from vla_ros.viewing import commands
from vla_ros.viewing.commands import CommandTrace

START_NS = s_to_ns(100.0)
CONFIG = LimitsConfig()


def trace(**changes: Any) -> CommandTrace:
    """Four seconds: the first joint swings with an amplitude of 0.3 rad, once a second; the rest and the arm stand."""
    times_s = np.arange(0.0, 4.0, 0.01)
    times_ns = [START_NS + s_to_ns(time_s) for time_s in times_s]
    home = np.tile(PANDA.home_rad, (len(times_s), 1))
    rad, rad_s = home.copy(), np.zeros_like(home)
    rad[:, 0] += 0.3 * np.sin(2 * np.pi * times_s)
    rad_s[:, 0] = 0.3 * 2 * np.pi * np.cos(2 * np.pi * times_s)
    metres = np.stack([0.4 + 0.05 * times_s, 0.1 * np.sin(times_s), 0.4 - 0.05 * times_s], axis=1)
    return replace(
        CommandTrace(
            title="A test: dry run, nothing was sent to the arm",
            note="the arm stood",
            joint_names=PANDA.joint_names,
            limits=AxisLimits.of_joints(PANDA, CONFIG),
            workspace_m=np.array([CONFIG.workspace_lower_m, CONFIG.workspace_upper_m]),
            commanded_ns=times_ns,
            commanded_rad=rad,
            commanded_rad_s=rad_s,
            commanded_m=metres,
            measured_ns=times_ns,
            measured_rad=home,
            measured_m=np.tile(metres[0], (len(times_s), 1)),
            planned=[metres[start : start + 100] for start in (0, 100, 200)],
            interventions=[(START_NS + s_to_ns(1.5), "workspace"), (START_NS + s_to_ns(2.5), "velocity")] * 2,
            states=[(START_NS, "holding"), (START_NS + s_to_ns(0.5), "running"), (START_NS + s_to_ns(3.0), "ramping")],
        ),
        **changes,
    )


def drawn(given: CommandTrace, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """Every axes of the picture, as they were when it was written."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: figures.append(figure))
    commands.render(given, path)
    return list(figures[0].axes)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_it_is_a_picture(tmp_path: Path) -> None:
    picture = image.imread(commands.render(trace(), tmp_path / "new" / "commands.png"))
    assert picture.shape[:2] == (1100, 1500)
    assert picture.std() > 0.05


def test_each_joint_is_shown_against_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = trace()
    axes = drawn(given, tmp_path / "x.png", monkeypatch)
    span, position, velocity = axes[:3]
    assert span.get_ylabel() == "joint1"
    assert span.get_ylim() == pytest.approx((given.limits.lower[0], given.limits.upper[0]))
    lines = {line.get_label(): np.array(line.get_ydata()) for line in position.lines}
    assert np.array_equal(lines["commanded"], given.commanded_rad[:, 0])
    assert np.array_equal(lines["measured"], given.measured_rad[:, 0])
    # 2.8973 rad, less the margin of 0.05 and the 0.3 of the swing.
    assert texts(position) == ["2.55 rad to a limit"]
    # 0.3 * 2 pi is 124 % of 2.175 rad/s times the scale of 0.7.
    assert texts(velocity) == ["at most 124 % of 1.52 rad/s"]
    assert np.abs(velocity.lines[0].get_ydata()).max() == pytest.approx(100 * 0.6 * np.pi / (2.175 * 0.7))
    # A joint that stands is flat: its axis shows more than noise.
    low, high = axes[4].get_ylim()
    assert high - low >= 0.1
    assert texts(axes[5]) == ["at most 0 % of 1.52 rad/s"]


def test_it_tells_its_story_in_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = trace()
    head = [text.get_text() for text in drawn(given, tmp_path / "x.png", monkeypatch)[0].figure.texts]
    assert head == [given.title, "4.0 s of commands", given.note]


def test_interventions_are_marked_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(trace(), tmp_path / "x.png", monkeypatch)
    (lines,) = axes[1].collections
    marks = [segment[0][0] for segment in lines.get_segments()]
    assert sorted(marks) == pytest.approx([1.5, 1.5, 2.5, 2.5])
    assert [label.get_text() for label in axes[-1].get_yticklabels()] == ["state", "workspace  ×2", "velocity  ×2"]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes[-1].patches]
    assert np.array(bars) == pytest.approx(np.array([(0.0, 0.5), (0.5, 2.5), (3.0, 0.99)]))
    calm = drawn(trace(interventions=()), tmp_path / "x.png", monkeypatch)
    assert texts(calm[-1]) == ["no limit acted"]


def test_what_acts_most_is_named_and_the_rest_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [(START_NS, f"limit_{number}") for number in range(12) for _ in range(12 - number)]
    labels = [
        label.get_text()
        for label in drawn(trace(interventions=many), tmp_path / "x.png", monkeypatch)[-1].get_yticklabels()
    ]
    assert labels[1] == "limit_0  ×12"
    assert labels[-1] == "others  ×6"
    assert len(labels) == 11


def test_the_workspace_and_the_way_in_it_are_seen_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = trace()
    *_, above, side, _ = drawn(given, tmp_path / "x.png", monkeypatch)
    for axes, across, up in ((above, 1, 0), (side, 0, 2)):
        (box,) = axes.patches
        assert np.array([box.get_xy(), (box.get_width(), box.get_height())]) == pytest.approx(
            np.array([given.workspace_m[0, [across, up]], np.diff(given.workspace_m[:, [across, up]], axis=0)[0]])
        )
        assert np.array_equal(axes.lines[-1].get_xdata(), given.commanded_m[:, across])
        assert np.array_equal(axes.lines[-1].get_ydata(), given.commanded_m[:, up])
        for limits, corner in ((axes.get_xlim(), across), (axes.get_ylim(), up)):
            assert min(limits) < given.workspace_m[0, corner] and max(limits) > given.workspace_m[1, corner]


def test_one_command_without_anything_measured_is_enough(tmp_path: Path) -> None:
    full = trace()
    least = CommandTrace(
        "", full.joint_names, full.limits, full.workspace_m, [START_NS],
        full.commanded_rad[:1], full.commanded_rad_s[:1], full.commanded_m[:1],
    )  # fmt: skip
    assert commands.render(least, tmp_path / "least.png").stat().st_size > 0


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="nothing was commanded, so there is nothing to draw"):
        trace(commanded_ns=[])
    with pytest.raises(ValueError, match=r"commanded_m has shape \(400, 3\), got \(400, 2\)"):
        trace(commanded_m=np.zeros((400, 2)))


def test_without_matplotlib_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["matplotlib"] = sys.modules["matplotlib.figure"] = None
from pathlib import Path
from vla_ros.viewing import commands
try:
    commands.render(None, Path("never.png"))
except ModuleNotFoundError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "the picture needs matplotlib: pip install 'vla_ros[sim]'\n"
