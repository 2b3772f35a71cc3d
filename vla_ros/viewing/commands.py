"""What was commanded, as one picture: joints against their limits, the TCP's way in the workspace, interventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_ros.control.limits import AxisLimits
from vla_ros.values import NANOSECONDS_PER_SECOND, Array, SafetyState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

_SIZE_IN = (15.0, 11.0)
_DOTS_PER_INCH = 100
_INK, _QUIET, _GRID = "#1f2430", "#8a90a0", "#e6e8ee"
_COMMANDED, _MEASURED, _PLANNED, _LIMIT, _ACTED = "#1f5fbf", "#e08a00", "#9cc3f0", "#c0392b", "#8e44ad"
_STATE_COLORS = {
    SafetyState.RUNNING.value: "#7fc796",
    SafetyState.RAMPING.value: "#f3c969",
    SafetyState.HOLDING.value: "#c9ced9",
    SafetyState.STOPPED.value: "#e58f86",
}
#: An axis shows at least this much, so that noise does not look like motion.
_LEAST_RAD, _LEAST_PERCENT = 0.1, 20.0
#: Interventions that get a line of their own, the most frequent ones.
_NAMED = 9


@dataclass(frozen=True, eq=False)
class CommandTrace:
    """What was commanded and measured over N and M instants; positions of the TCP in the base frame [m].

    `limits`: of the joints (J,), as configured. `workspace_m`: (2, 3), the lower and the upper corner. `planned`: the
    positions (K, 3) of each chunk. `interventions`: (time_ns, name) each time a limit acted or a chunk was dropped.
    `states`: (time_ns, safety state) as it changed.
    """

    title: str
    joint_names: tuple[str, ...]
    limits: AxisLimits
    workspace_m: Array
    commanded_ns: Sequence[int]
    commanded_rad: Array  # (N, J)
    commanded_rad_s: Array  # (N, J)
    commanded_m: Array  # (N, 3)
    measured_ns: Sequence[int] = ()
    measured_rad: Array = field(default_factory=lambda: np.empty((0, 0)))  # (M, J)
    measured_m: Array = field(default_factory=lambda: np.empty((0, 3)))  # (M, 3)
    planned: Sequence[Array] = ()
    interventions: Sequence[tuple[int, str]] = ()
    states: Sequence[tuple[int, str]] = ()
    note: str = ""  # what to know when looking at it

    def __post_init__(self) -> None:
        count, joints = len(self.commanded_ns), len(self.joint_names)
        expected = {"commanded_rad": (count, joints), "commanded_rad_s": (count, joints), "commanded_m": (count, 3)}
        if len(self.measured_ns):
            expected |= {"measured_rad": (len(self.measured_ns), joints), "measured_m": (len(self.measured_ns), 3)}
        if not count:
            raise ValueError("nothing was commanded, so there is nothing to draw")
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {shape}, got {getattr(self, name).shape}")

    @property
    def duration_s(self) -> float:
        """From the first command to the last."""
        return self.seconds(self.commanded_ns[-1])

    def seconds(self, time_ns: int) -> float:
        """Since the first command."""
        return (time_ns - self.commanded_ns[0]) / NANOSECONDS_PER_SECOND


def render(trace: CommandTrace, path: Path) -> Path:
    """Draw `trace` into the PNG `path` and give the path back; makes its folder.

    Raises ModuleNotFoundError with what to install where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the picture needs matplotlib: pip install 'vla_ros[sim]'") from error
    figure = Figure(figsize=_SIZE_IN, dpi=_DOTS_PER_INCH, facecolor="white")
    halves = figure.add_gridspec(1, 2, width_ratios=(1.5, 1.0), left=0.075, right=0.985, bottom=0.05, top=0.9)
    figure.text(0.012, 0.975, trace.title, size=16, weight="bold", color=_INK, va="top")
    figure.text(0.985, 0.97, f"{trace.duration_s:.1f} s of commands", size=12, color=_INK, va="top", ha="right")
    figure.text(0.985, 0.942, trace.note, size=9, color=_QUIET, va="top", ha="right")
    _draw_joints(figure, halves[0], trace)
    _draw_space(figure, halves[1], trace)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


# --- the joints -------------------------------------------------------------------------------------------------------


def _draw_joints(figure: Figure, place: SubplotSpec, trace: CommandTrace) -> None:
    joints = len(trace.joint_names)
    grid = place.subgridspec(joints, 3, width_ratios=(0.05, 1.0, 1.0), wspace=0.22, hspace=0.28)
    for row in range(joints):
        range_axes, position_axes, velocity_axes = (figure.add_subplot(grid[row, column]) for column in range(3))
        _draw_range(range_axes, trace, row)
        _draw_positions(position_axes, trace, row)
        _draw_velocities(velocity_axes, trace, row)
        for axes in (position_axes, velocity_axes):
            axes.set_xlim(0.0, max(trace.duration_s, 1e-3))
            axes.tick_params(labelbottom=row == joints - 1)
            acted_s, whole = _times(trace, [time_ns for time_ns, _ in trace.interventions]), axes.get_xaxis_transform()
            axes.vlines(acted_s, 0.0, 1.0, transform=whole, color=_ACTED, linewidth=0.7, alpha=0.3, zorder=1)
        if row == 0:
            range_axes.set_title("range", size=10, color=_INK)
            position_axes.set_title("position [rad]", size=10, color=_INK)
            velocity_axes.set_title("velocity [% of its limit]", size=10, color=_INK)
            handles, labels = position_axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.01, 0.948), ncols=2, frameon=False)
        if row == joints - 1:
            position_axes.set_xlabel("time [s]", color=_INK)
            velocity_axes.set_xlabel("time [s]", color=_INK)


def _draw_range(axes: Axes, trace: CommandTrace, joint: int) -> None:
    """The permitted range as a bar, and the part of it that was commanded."""
    lower, upper = float(trace.limits.lower[joint]), float(trace.limits.upper[joint])
    low, high = float(trace.commanded_rad[:, joint].min()), float(trace.commanded_rad[:, joint].max())
    axes.axhspan(lower, upper, color=_GRID)
    axes.axhspan(low, max(high, low + 0.012 * (upper - lower)), color=_COMMANDED)
    axes.set_ylim(min(lower, low), max(upper, high))
    axes.set_xticks([])
    axes.set_yticks([lower, upper], [f"{lower:.2f}", f"{upper:.2f}"], size=7, color=_QUIET)
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    axes.set_ylabel(trace.joint_names[joint].rpartition("_")[2], color=_INK, size=9, labelpad=1)


def _draw_positions(axes: Axes, trace: CommandTrace, joint: int) -> None:
    commanded = trace.commanded_rad[:, joint]
    shown = [commanded]
    if len(trace.measured_ns):
        shown.append(trace.measured_rad[:, joint])
        axes.plot(_times(trace, trace.measured_ns), shown[-1], color=_MEASURED, linewidth=1.4, label="measured")
    axes.plot(_times(trace, trace.commanded_ns), commanded, color=_COMMANDED, linewidth=1.2, label="commanded")
    low, high = min(map(np.min, shown)), max(map(np.max, shown))
    spare = max(0.12 * (high - low), (_LEAST_RAD - (high - low)) / 2)
    axes.set_ylim(low - spare, high + 2.2 * spare)  # the text needs room
    lower, upper = float(trace.limits.lower[joint]), float(trace.limits.upper[joint])
    for limit in (lower, upper):
        if low - spare <= limit <= high + spare:
            axes.axhline(limit, color=_LIMIT, linewidth=1.0, linestyle="--")
    left = min(float(commanded.min()) - lower, upper - float(commanded.max()))
    _say(axes, f"{left:.2f} rad to a limit", is_alarming=left < 0.05)
    _tidy(axes)


def _draw_velocities(axes: Axes, trace: CommandTrace, joint: int) -> None:
    limit = float(trace.limits.velocity[joint])
    percent = 100.0 * trace.commanded_rad_s[:, joint] / limit
    axes.plot(_times(trace, trace.commanded_ns), percent, color=_COMMANDED, linewidth=1.2)
    peak = float(np.abs(percent).max())
    reach = max(1.15 * peak, _LEAST_PERCENT)
    axes.set_ylim(-reach, 1.4 * reach)
    for bound in (-100.0, 100.0):
        if abs(bound) <= reach:
            axes.axhline(bound, color=_LIMIT, linewidth=1.0, linestyle="--")
    _say(axes, f"at most {peak:.0f} % of {limit:.2f} rad/s", is_alarming=peak > 99.0)
    _tidy(axes)


def _say(axes: Axes, text: str, is_alarming: bool) -> None:
    color = _LIMIT if is_alarming else _QUIET
    axes.text(0.99, 0.95, text, transform=axes.transAxes, size=8, color=color, ha="right", va="top", zorder=5)


# --- the TCP, and what intervened -------------------------------------------------------------------------------------


def _draw_space(figure: Figure, place: SubplotSpec, trace: CommandTrace) -> None:
    grid = place.subgridspec(3, 1, height_ratios=(1.2, 1.3, 0.85), hspace=0.32)
    above, side = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    _draw_path(above, trace, across=1, up=0)  # as the robot stands: x ahead, y to its left
    above.invert_xaxis()
    above.set_title("TCP, from above", size=10, color=_INK, loc="left")
    above.legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=2, frameon=False, fontsize=8)
    _draw_path(side, trace, across=0, up=2)
    side.set_title("TCP, from the side", size=10, color=_INK, loc="left")
    names_and_lines = grid[2].subgridspec(1, 2, width_ratios=(0.28, 1.0), wspace=0.0)
    _draw_interventions(figure.add_subplot(names_and_lines[1]), trace)


def _draw_path(axes: Axes, trace: CommandTrace, across: int, up: int) -> None:
    """The TCP's way in the plane of two of the base frame's axes."""
    from matplotlib.patches import Rectangle

    lower, upper = trace.workspace_m[:, [across, up]]
    box = Rectangle(tuple(lower), *(upper - lower), fill=False, edgecolor=_LIMIT, linestyle="--", label="workspace")
    axes.add_patch(box)
    for index, positions in enumerate(trace.planned):
        label = "chunks" if index == 0 else None
        axes.plot(positions[:, across], positions[:, up], color=_PLANNED, linewidth=0.8, alpha=0.6, label=label)
    if len(trace.measured_ns):
        x, y = trace.measured_m[:, across], trace.measured_m[:, up]
        axes.plot(x, y, color=_MEASURED, linewidth=1.4, zorder=4)
        axes.plot(x[-1], y[-1], "o", color=_MEASURED, markersize=5, zorder=4)
    axes.plot(trace.commanded_m[:, across], trace.commanded_m[:, up], color=_COMMANDED, linewidth=1.4, zorder=3)
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.04)
    axes.set_xlabel(f"{'xyz'[across]} [m]", color=_INK)
    axes.set_ylabel(f"{'xyz'[up]} [m]", color=_INK)
    _tidy(axes)


def _draw_interventions(axes: Axes, trace: CommandTrace) -> None:
    """A line of time for the safety state, and one for each limit that acted."""
    counts = Counter(name for _, name in trace.interventions)
    names = [name for name, _ in counts.most_common(_NAMED)]
    others = sum(counts.values()) - sum(counts[name] for name in names)
    labels = ["state", *(f"{name}  ×{counts[name]}" for name in names), *([f"others  ×{others}"] if others else [])]
    _draw_states(axes, trace)
    lines = [1 + (names.index(name) if name in names else len(names)) for _, name in trace.interventions]
    acted_s = _times(trace, [time_ns for time_ns, _ in trace.interventions])
    axes.plot(acted_s, lines, "|", color=_ACTED, markersize=9, markeredgewidth=1.5)
    if not counts:
        labels.append("")
        axes.text(trace.duration_s / 2, 1, "no limit acted", size=9, color=_QUIET, ha="center", va="center")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0.0, max(trace.duration_s, 1e-3))
    axes.set_xlabel("time [s]", color=_INK)
    axes.set_title("interventions", size=10, color=_INK, loc="left")
    _tidy(axes)


def _draw_states(axes: Axes, trace: CommandTrace) -> None:
    ends_ns = [time_ns for time_ns, _ in trace.states[1:]] + [trace.commanded_ns[-1]]
    labelled: set[str] = set()
    for (begin_ns, state), end_ns in zip(trace.states, ends_ns, strict=False):
        begin_s, end_s = max(0.0, trace.seconds(begin_ns)), trace.seconds(end_ns)
        if end_s <= begin_s:
            continue
        label = None if state in labelled else state
        labelled.add(state)
        color = _STATE_COLORS.get(state, _GRID)
        axes.barh(0, end_s - begin_s, left=begin_s, height=0.6, color=color, label=label)
    if labelled:
        place, narrow = (1.02, 0.98), {"handlelength": 0.9, "handletextpad": 0.4, "columnspacing": 0.9}
        axes.legend(loc="lower right", bbox_to_anchor=place, ncols=4, frameon=False, fontsize=8, **narrow)


def _times(trace: CommandTrace, times_ns: Sequence[int]) -> Array:
    return (np.asarray(times_ns, dtype=np.float64) - trace.commanded_ns[0]) / NANOSECONDS_PER_SECOND


def _tidy(axes: Axes) -> None:
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8)
