"""The tabletop in MJCF: an arm, table, room, three cubes, cameras; the table's top is z = 0 of the arm's base frame."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from vla_ros.robots import description
from vla_ros.robots.robot import Robot
from vla_ros.simulation.board import BoardModel, add_board
from vla_ros.simulation.tasks import COLORS, CUBE_SIZE_M
from vla_ros.simulation.world import CameraModel

TIMESTEP_S = 0.001
CUBE_MASS_KG = 0.06

#: How table and cubes touch; where a finger touches, its own rule wins.
_TOUCH = {"friction": "0.6 0.005 0.0001", "condim": "4", "solref": "0.004 1", **description.WORLD_COLLISION}

_CUBE_RGBA = {"red": "0.86 0.13 0.12 1", "green": "0.16 0.62 0.22 1", "blue": "0.12 0.30 0.80 1"}


def scene(robot: Robot, cameras: Mapping[str, CameraModel], board: BoardModel | None = None) -> str:
    """The whole world as an MJCF document, cameras not yet in their places; bodies and cubes are named as they are.

    The picture of a `board` is a file among the assets, `board.PICTURE`.
    """
    root = description.mjcf(robot)
    SubElement(root, "option", timestep=str(TIMESTEP_S), integrator="implicitfast", cone="elliptic", impratio="10")
    _add_looks(root, cameras)
    world = root.find("worldbody")
    assert world is not None
    _add_room(world)
    for color in COLORS:
        _add_cube(world, color)
    for name, camera in cameras.items():
        body = world if not camera.frame else _body(world, camera.frame, "a camera")
        SubElement(body, "camera", name=name, fovy=str(camera.vertical_fov_deg))
    if board is not None:
        add_board(root, world if not board.frame else _body(world, board.frame, "a board"), board)
    return ElementTree.tostring(root, encoding="unicode")


def _add_looks(root: Element, cameras: Mapping[str, CameraModel]) -> None:
    visual = SubElement(root, "visual")
    width, height = (max(getattr(camera, side) for camera in cameras.values()) for side in ("width", "height"))
    SubElement(visual, "global", offwidth=str(width), offheight=str(height))
    # Software rendering is bound by vertices and pixels: no shadows, no multisampling, rods of few facets.
    SubElement(visual, "quality", shadowsize="0", offsamples="0", numslices="20", numstacks="10")
    SubElement(visual, "headlight", ambient="0.40 0.40 0.40", diffuse="0.22 0.22 0.22", specular="0.05 0.05 0.05")
    SubElement(visual, "map", znear="0.005", zfar="20")
    asset = SubElement(root, "asset")
    SubElement(
        asset,
        "texture",
        {"type": "skybox", "builtin": "gradient", "rgb1": "0.93 0.94 0.95", "rgb2": "0.66 0.72 0.78"},
        width="64",
        height="384",
    )


def _add_room(world: Element) -> None:
    lamp = {"type": "directional", "castshadow": "false", "specular": "0.1 0.1 0.1"}
    SubElement(world, "light", lamp, name="lamp")
    solid = description.WORLD_COLLISION
    _add_box(world, "table", "0.32 0 -0.02", "0.62 0.60 0.02", "0.76 0.62 0.46 1", _TOUCH)
    _add_box(world, "mat", "0.49 0 0", "0.24 0.40 0.0005", "0.80 0.80 0.78 1", {"contype": "0", "conaffinity": "0"})
    for x in ("-0.24", "0.88"):
        for y in ("-0.54", "0.54"):
            _add_box(world, f"leg {x} {y}", f"{x} {y} -0.395", "0.03 0.03 0.355", "0.36 0.30 0.25 1", solid)
    floor = {"type": "plane", "pos": "0 0 -0.75", "size": "4 4 1", "rgba": "0.46 0.48 0.50 1"}
    SubElement(world, "geom", {**floor, **solid}, name="floor")


def _add_cube(world: Element, color: str) -> None:
    cube = SubElement(world, "body", name=color)
    SubElement(cube, "freejoint", name=color)
    half = str(CUBE_SIZE_M / 2)
    _add_box(cube, color, "0 0 0", f"{half} {half} {half}", _CUBE_RGBA[color], {**_TOUCH, "mass": str(CUBE_MASS_KG)})


def _add_box(parent: Element, name: str, pos: str, half_size: str, rgba: str, physics: dict[str, str]) -> None:
    attributes = {"type": "box", "pos": pos, "size": half_size, "rgba": rgba, **physics}
    SubElement(parent, "geom", attributes, name=name)


def _body(world: Element, name: str, what: str) -> Element:
    body = next((body for body in world.iter("body") if body.get("name") == name), None)
    if body is None:
        names = ", ".join(str(body.get("name")) for body in world.iter("body"))
        raise ValueError(f"{what} is mounted on {name!r}; the links are {names}")
    return body
