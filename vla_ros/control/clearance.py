"""How far an arm is from itself, the table and planes, by the capsules of its hull, and what keeps it clear of them."""

from __future__ import annotations

from collections.abc import Iterable

import coal
import numpy as np
import pinocchio as pin

from vla_ros.control.interpolation import Way
from vla_ros.control.kinematics import levers_m
from vla_ros.control.limits import LimitsConfig
from vla_ros.robots import description
from vla_ros.robots.robot import Robot
from vla_ros.values import Array

#: Rounding of a distance [m].
_ROUNDING_M = 1e-9


class Clearance:
    """Distances of one arm's capsules from each other, the table and planes, least of each group. Not thread-safe.

    A group is what one plane, or one link, must not meet: the fewer joints lie between, the less its distance changes.
    """

    def __init__(self, robot: Robot, config: LimitsConfig) -> None:
        hull = robot.hull
        whole = pin.buildModelFromXML(description.urdf(robot))
        fingers = [whole.getJointId(name) for name in robot.gripper.finger_joints]
        self._model = pin.buildReducedModel(whole, fingers, pin.neutral(whole))
        self._data = self._model.createData()
        self._capsules = {link: list(self._around(link, robot)) for link in hull.capsules}
        self._groups: list[tuple[pin.GeometryModel, pin.GeometryData]] = []
        levers: list[Array] = []
        for link in dict.fromkeys(one for one, _ in hull.self_pairs):
            others = [other for one, other in hull.self_pairs if one == link]
            self._add_group(self._capsules[link], others)
            joint = self._model.frames[self._model.getFrameId(link)].parentJoint
            levers.append(np.where(np.arange(self._model.nq) < joint, 0.0, self._levers_m(others)))
        for *normal, offset_m in [(0.0, 0.0, 1.0, config.table_height_m), *config.planes.values()]:
            solid = coal.Halfspace(np.array(normal), offset_m)
            self._add_group([pin.GeometryObject("plane", 0, pin.SE3.Identity(), solid)], hull.above_planes)
            levers.append(self._levers_m(hull.above_planes))
        #: How far a point of a capsule's axis of each group can be from each joint's axis at most (G, J) [m]; 0 for the
        #: joints that move both sides alike.
        self.levers_m = np.array(levers)

    def distances_m(self, joint_positions: Array) -> Array:
        """The least distance in each group (G,) at `joint_positions` (J,); negative where two overlap."""
        return np.array([self.distance_m(group, joint_positions) for group in range(len(self._groups))])

    def distance_m(self, group: int, joint_positions: Array) -> float:
        """The least distance in one group."""
        geometry, results = self._groups[group]
        nearest = pin.computeDistances(self._model, self._data, geometry, results, joint_positions)
        return float(results.distanceResults[nearest].min_distance)

    def _around(self, link: str, robot: Robot) -> Iterable[pin.GeometryObject]:
        """The capsules around one link, each in the frame of the joint that moves it."""
        frame = self._model.frames[self._model.getFrameId(link)]
        for number, rod in enumerate(robot.hull.capsules[link]):
            start, end = np.array(rod.start_m), np.array(rod.end_m)
            turn = pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), end - start).toRotationMatrix()
            placement = frame.placement * pin.SE3(turn, (start + end) / 2)
            capsule = coal.Capsule(rod.radius_m, float(np.linalg.norm(end - start)))
            yield pin.GeometryObject(f"{link} {number}", frame.parentJoint, placement, capsule)

    def _add_group(self, ones: Iterable[pin.GeometryObject], others: Iterable[str]) -> None:
        """A group of the distances between each of `ones` and each capsule of the links `others`."""
        geometry = pin.GeometryModel()
        first = [geometry.addGeometryObject(one) for one in ones]
        for other in others:
            for capsule in self._capsules[other]:
                second = geometry.addGeometryObject(capsule)
                for one in first:
                    geometry.addCollisionPair(pin.CollisionPair(one, second))
        self._groups.append((geometry, geometry.createData()))

    def _levers_m(self, links: Iterable[str]) -> Array:
        most = np.zeros(self._model.nq)
        for capsule in (capsule for link in links for capsule in self._capsules[link]):
            for end in (-capsule.geometry.halfLength, capsule.geometry.halfLength):
                point = capsule.placement.act(np.array([0.0, 0.0, end]))
                most = np.maximum(most, levers_m(self._model, capsule.parentJoint, point))
        return most


class ClearanceGuard:
    """Objects to a way on which the arm comes nearer than it may, or where it is nearer already, nearer still.

    Where the arm is far from something it cannot come near before it has moved by as much: no distance is computed.
    """

    def __init__(self, robot: Robot, config: LimitsConfig) -> None:
        self._clearance = Clearance(robot, config)
        self._least_m = config.clearance_m
        count, joints = self._clearance.levers_m.shape
        self._known_at = np.zeros((count, joints))  # where the distance of each group was computed last
        self._known_m = np.full(count, -np.inf)

    def objection(self, way: Way) -> str:
        """clearance, or ""."""
        now = way.start.positions
        up = np.maximum(way.most, now) - self._known_at
        down = self._known_at - np.minimum(way.least, now)
        moved_m = (self._clearance.levers_m * np.maximum(np.maximum(up, down), 0.0)).sum(axis=1)
        near = moved_m > self._known_m - self._least_m
        return "clearance" if any(self._comes_near(group, way.ticks) for group in np.flatnonzero(near).tolist()) else ""

    def _comes_near(self, group: int, ticks: Array) -> bool:
        levers_m = self._clearance.levers_m[group]
        index, distance_m = 0, self._distance_m(group, ticks[0])
        while True:
            # Go to the first tick at which the room could be used up, the next one if there is none: what is left out
            # saves time and changes no answer.
            ahead = np.abs(ticks[index + 1 :] - ticks[index]) @ levers_m > distance_m - self._least_m
            if not ahead.any():
                return False
            index += 1 + int(np.argmax(ahead))
            before_m, distance_m = distance_m, self._distance_m(group, ticks[index])
            if distance_m < min(before_m, self._least_m) - _ROUNDING_M:
                return True

    def _distance_m(self, group: int, joint_positions: Array) -> float:
        distance_m = self._clearance.distance_m(group, joint_positions)
        self._known_at[group], self._known_m[group] = joint_positions, distance_m
        return distance_m
