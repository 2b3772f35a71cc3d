"""Clearance: distances against brute force in another library's frames; no command comes nearer than it may."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.control.arm import ArmConfig
from vla_ros.control.clearance import Clearance, ClearanceGuard
from vla_ros.control.interpolation import Interpolator, Way
from vla_ros.control.limits import AxisLimits, LimitsConfig
from vla_ros.robots import description
from vla_ros.robots.panda import PANDA
from vla_ros.robots.robot import Box
from vla_ros.simulation.rendering import mujoco
from vla_ros.values import POSE_DIMENSIONS

PERIOD_S = 0.01
HULL = PANDA.hull
LOWER = np.array([joint.lower_rad for joint in PANDA.joints])
UPPER = np.array([joint.upper_rad for joint in PANDA.joints])
WALL = (0.0, -0.8, 0.6, -0.3)
#: Folded: the hand beside the forearm, and over the upper arm.
CROWDED = np.array([0.4, -0.6, 1.2, -2.9, 0.9, 0.15, 0.6])


class Frames:
    """Where the capsules' axes are, by MuJoCo."""

    def __init__(self):
        text = ElementTree.tostring(description.mjcf(PANDA), encoding="unicode")
        self.model = mujoco.MjModel.from_xml_string(text)
        self.data = mujoco.MjData(self.model)

    def axes(self, joint_positions):
        """By link: start, end and radius of each capsule."""
        self.data.qpos[:7] = joint_positions
        mujoco.mj_kinematics(self.model, self.data)
        found = {}
        for link, capsules in HULL.capsules.items():
            body = self.data.body(link)
            turn, origin = body.xmat.reshape(3, 3), body.xpos
            found[link] = [(origin + turn @ rod.start_m, origin + turn @ rod.end_m, rod.radius_m) for rod in capsules]
        return found


def segments_apart(one, other):
    """The least distance of two segments, by trying: points of one against the exactly nearest of the other."""
    (p, q), (start, end) = one, other
    least = np.inf
    low, high = 0.0, 1.0
    for _ in range(4):  # the distance is convex along the segment
        shares = np.linspace(low, high, 33)
        points = p + shares[:, None] * (q - p)
        across = end - start
        along = np.clip((points - start) @ across / (across @ across), 0.0, 1.0)
        apart = np.linalg.norm(points - start - along[:, None] * across, axis=1)
        best = int(np.argmin(apart))
        least = min(least, float(apart[best]))
        low, high = shares[max(best - 1, 0)], shares[min(best + 1, 32)]
    return least


def links_apart(axes, one, other):
    return min(segments_apart(a[:2], b[:2]) - a[2] - b[2] for a in axes[one] for b in axes[other])


def above(axes, link, plane):
    return min(float(np.dot(plane[:3], end)) - plane[3] - rod[2] for rod in axes[link] for end in rod[:2])


def brute_force(axes, planes):
    firsts = list(dict.fromkeys(one for one, _ in HULL.self_pairs))
    distances = [
        min(links_apart(axes, one, other) for one, other in HULL.self_pairs if one == first) for first in firsts
    ]
    return np.array([*distances, *(min(above(axes, link, plane) for link in HULL.above_planes) for plane in planes)])


def test_distances_are_those_of_brute_force():
    config = LimitsConfig(planes={"wall": WALL}, table_height_m=-0.1)
    clearance, frames, random = Clearance(PANDA, config), Frames(), np.random.default_rng(0)
    for _ in range(25):
        q = random.uniform(LOWER, UPPER)
        expected = brute_force(frames.axes(q), [(0.0, 0.0, 1.0, -0.1), WALL])
        np.testing.assert_allclose(clearance.distances_m(q), expected, atol=1e-4)


def test_no_distance_changes_by_more_than_its_levers_say():
    clearance, random = Clearance(PANDA, LimitsConfig(planes={"wall": WALL})), np.random.default_rng(1)
    for _ in range(300):
        q = random.uniform(LOWER, UPPER)
        step = random.normal(size=7) * 0.05 * (random.random(7) < 0.5)
        change = np.abs(clearance.distances_m(q + step) - clearance.distances_m(q))
        assert (change <= clearance.levers_m @ np.abs(step) + 1e-9).all()


def points_of(shape):
    """Points and radius whose spheres' convex hull contains a shape."""
    if isinstance(shape, Box):
        signs = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
        return np.array(shape.center_m) + signs * shape.size_m, 0.0
    start, end = np.array(shape.start_m), np.array(shape.end_m)
    if shape.rounded:
        return np.array([start, end]), shape.radius_m
    along = (end - start) / np.linalg.norm(end - start)
    side = np.cross(along, [1.0, 0.0, 0.0] if abs(along[0]) < 0.9 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)[:, None]
    rim = shape.radius_m * (np.cos(angles) * side + np.sin(angles) * np.cross(along, side))
    return np.vstack([start + rim, end + rim]), 0.0


def is_around(rod, points, radius_m):
    start, across = np.array(rod.start_m), np.array(rod.end_m) - rod.start_m
    along = np.clip((points - start) @ across / (across @ across), 0.0, 1.0)
    return (np.linalg.norm(points - start - along[:, None] * across, axis=1) + radius_m <= rod.radius_m + 1e-9).all()


@pytest.mark.parametrize("link", PANDA.shapes)
def test_every_shape_is_inside_a_capsule(link):
    for shape in PANDA.shapes[link]:
        points, radius_m = points_of(shape)
        opened = [(0.0, 0.0, 0.0), (0.0, PANDA.gripper.max_width_m / 2, 0.0)]  # convex: what is between is inside, too
        shifts = opened if link in PANDA.gripper.finger_links else opened[:1]
        everywhere = np.vstack([points + shift for shift in shifts])
        assert any(is_around(rod, everywhere, radius_m) for rod in HULL.capsules[link]), shape


def test_links_that_are_not_looked_at_cannot_meet():
    parents = {joint.child: joint.parent for joint in PANDA.joints}
    parents |= {"panda_hand": "panda_link7"} | dict.fromkeys(PANDA.gripper.finger_links, "panda_hand")
    neighbours = {frozenset(pair) for pair in parents.items()}
    passing = {frozenset(("panda_link5", "panda_link7")), frozenset(PANDA.gripper.finger_links)}
    watched = {frozenset(pair) for pair in HULL.self_pairs}
    rest = [pair for pair in combinations(HULL.capsules, 2) if frozenset(pair) not in watched | neighbours | passing]
    frames, random = Frames(), np.random.default_rng(2)
    least = dict.fromkeys(rest, np.inf)
    for _ in range(60):
        q = np.where(random.random(7) < 0.3, random.choice([LOWER, UPPER]), random.uniform(LOWER, UPPER))
        axes = frames.axes(q)
        for pair in rest:
            least[pair] = min(least[pair], links_apart(axes, *pair))
    assert rest and min(least.values()) > 0.01, min(least, key=least.get)


def assert_keeps_clear(path, config):
    clearance = Clearance(PANDA, config)
    distances = np.array([clearance.distances_m(row) for row in path])
    assert (distances[1:] >= np.minimum(distances[:-1], config.clearance_m) - 1e-6).all()
    return distances


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_command_comes_nearer_than_it_may(assert_keeps, home, seed):
    config = LimitsConfig(planes={"wall": WALL}, clearance_m=0.03)
    limits, random = AxisLimits.of_joints(PANDA, config), np.random.default_rng(seed)
    start = np.clip(CROWDED if random.random() < 0.5 else home, limits.lower, limits.upper)
    interpolator = Interpolator(limits, PERIOD_S, start, guards=(ClearanceGuard(PANDA, config),))
    path = [start]
    for _ in range(6):
        target = np.clip(random.choice([CROWDED, home]) + random.normal(size=7) * 0.7, limits.lower, limits.upper)
        path += [interpolator.follow(target, np.zeros(7)).positions for _ in range(40)]
    assert_keeps(np.array(path), limits)
    assert_keeps_clear(path, config)


def test_an_arm_that_is_too_near_can_leave(home):
    config = LimitsConfig(joint_margin_rad=0.0)
    limits = AxisLimits.of_joints(PANDA, config)
    interpolator = Interpolator(limits, PERIOD_S, CROWDED, guards=(ClearanceGuard(PANDA, config),))
    path = [CROWDED, *(interpolator.follow(home, np.zeros(7)).positions for _ in range(400))]
    distances = assert_keeps_clear(path, config)
    assert distances[0].min() < config.clearance_m < distances[-1].min()
    np.testing.assert_allclose(path[-1], home, atol=1e-6)


def test_the_arm_stops_above_the_table_and_says_so(new_bench, kinematics):
    bench = new_bench().started()
    pose = kinematics.forward(bench.measured)
    for tilt in np.linspace(0.0, 0.6, 14):  # one side of the hand down, low over the table
        pose[3:] = [np.cos(tilt / 2), 0.0, 0.0, -np.sin(tilt / 2)]
        pose[[0, 2]] = min(pose[0] + 0.02, 0.45), max(pose[2] - 0.05, 0.01)
        bench.send(np.tile(pose, (10, 1)), POSE_DIMENSIONS)
        bench.run(0.3)
    assert bench.counters["clearance"] >= 1
    distances = assert_keeps_clear(bench.path(), LimitsConfig())
    assert distances[:, -1].min() < 0.025  # as near as it may, not somewhere else


def test_a_grasp_on_the_table_is_not_disturbed(new_bench, kinematics):
    bench = new_bench(ArmConfig()).started()
    pose = kinematics.forward(bench.measured)
    for height_m in np.linspace(pose[2], 0.006, 12):
        pose[2] = height_m
        bench.send(np.tile(pose, (10, 1)), POSE_DIMENSIONS)
        bench.run(0.4)
    bench.run(0.5)
    assert bench.commands[-1].tcp_pose[2] == pytest.approx(0.006, abs=1e-3)
    assert "clearance" not in bench.counters


class Judge:
    """What a guard says of each way, and what looking at every tick of it says."""

    def __init__(self, config) -> None:
        self.guard, self.clearance, self.least_m = (
            ClearanceGuard(PANDA, config),
            Clearance(PANDA, config),
            config.clearance_m,
        )
        self.objections: list[bool] = []

    def objection(self, way: Way) -> str:
        distances_m = np.array([self.clearance.distances_m(row) for row in way.ticks])
        nearer = (distances_m[1:] < np.minimum(distances_m[:-1], self.least_m) - 1e-9).any()
        said = self.guard.objection(way)
        assert bool(said) is bool(nearer)
        self.objections.append(bool(nearer))
        return said


@pytest.mark.parametrize("clearance_m", [0.02, 0.25])
def test_the_guard_says_of_every_way_what_looking_at_all_its_ticks_says(home, clearance_m):
    """With the greater clearance the arm begins too near to something, and may only go away from it."""
    config = LimitsConfig(clearance_m=clearance_m)
    judge, random = Judge(config), np.random.default_rng(2)
    axes = Interpolator(AxisLimits.of_joints(PANDA, config), 0.01, home, guards=(judge,))
    for _ in range(8):
        down = home + np.array([0, 1.6, 0, 0.3, 0, 0, 0])
        target = down if clearance_m < 0.1 else home + random.uniform(-1.2, 1.2, 7)
        for _ in range(16):
            axes.follow(target, np.zeros(7))
    assert 0.02 < np.mean(judge.objections) < 0.98, "both were tried"
