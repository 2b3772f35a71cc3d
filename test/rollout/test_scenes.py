"""Rendered scenes: pictures, words and states agree, whoever looks; the same arguments give the same scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vla_ros.cli.app import app
from vla_ros.control.arm import ArmConfig
from vla_ros.geometry import pose_matrix
from vla_ros.robots.panda import PANDA
from vla_ros.rollout.scenes import CONVERSATIONS, MEASURES, STATES, Placing, Scene, scenes, write
from vla_ros.simulation.describing import describe, questions, read
from vla_ros.simulation.measuring import measures
from vla_ros.simulation.tabletop import Tabletop
from vla_ros.simulation.tasks import COLORS
from vla_ros.simulation.world import DEFAULT_CAMERAS, TabletopConfig, WorldState
from vla_ros.training.conversations import Conversations
from vla_ros.training.measures import Measured
from vla_ros.training.pictures import Pictures

SMALL = {name: camera.model_copy(update={"width": 128, "height": 96}) for name, camera in DEFAULT_CAMERAS.items()}
WORLD = TabletopConfig(cameras=SMALL, variety=0.0)
CAMERAS = ("front", "wrist")


@pytest.fixture(scope="module")
def found() -> list[Scene]:
    return list(scenes(PANDA, WORLD, CAMERAS, ArmConfig(), count=12, seed=3))


@pytest.fixture(scope="module")
def folder(found: list[Scene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "made"
    assert write(iter(found), root, "what is there?", lambda done: None) == 12
    return root


def seen(scene: Scene, color: str) -> bool:
    """Whether the front picture has the cube's colour where a pinhole puts its middle."""
    camera = SMALL["front"]
    in_camera = np.linalg.inv(pose_matrix(camera.optical_pose())) @ [*scene.state.cube_pose(color)[:3], 1.0]
    fx, fy, cx, cy = camera.intrinsics()
    column, row = round(cx + fx * in_camera[0] / in_camera[2]), round(cy + fy * in_camera[1] / in_camera[2])
    pixel = scene.images["front"][row, column].astype(int)
    return bool(pixel.argmax() == COLORS.index(color) and pixel.max() > np.sort(pixel)[1] + 30)


def test_pictures_show_what_the_states_say(found: list[Scene]) -> None:
    assert len({scene.name for scene in found}) == 12
    assert all(scene.images[camera].shape == (96, 128, 3) for scene in found for camera in CAMERAS)
    shown = [seen(scene, color) for scene in found for color in COLORS]
    assert np.mean(shown) > 0.75, "the arm is in front of some"
    heights = [scene.state.tcp_pose[2] for scene in found]
    assert np.ptp(heights) > 0.15
    assert len({tuple(scene.state.tcp_pose.round(3)) for scene in found}) == 12


def test_an_arm_put_elsewhere_is_where_the_simulator_has_it_too() -> None:
    """The TCP by MuJoCo's own kinematics, against what the state says."""
    world, place = Tabletop(PANDA, WORLD), Placing(PANDA)
    for seed in range(5):
        world.reset(seed)
        joints, width_m = place.draw(np.random.default_rng(seed), world.joint_positions)
        snapshot, state = place.moved(world.snapshot(), world.state(), joints, width_m)
        assert 0.09 < state.tcp_pose[2] < 0.51, "clear of the cubes"
        np.testing.assert_array_equal(state.values[8:], world.state().values[8:])
        from vla_ros.simulation.rendering import mujoco

        world._data.qpos[:] = snapshot.configuration
        mujoco.mj_kinematics(world._model, world._data)
        np.testing.assert_allclose(world.tcp_pose[:3], state.tcp_pose[:3], atol=1e-6)
        assert world.gripper_width_m == pytest.approx(width_m)


def test_the_same_arguments_give_the_same_scenes(found: list[Scene]) -> None:
    again = scenes(PANDA, WORLD, CAMERAS, ArmConfig(), count=12, seed=3)
    for scene, other in zip(found[:3], again, strict=False):
        assert scene.name == other.name
        np.testing.assert_array_equal(scene.state.values, other.state.values)
        np.testing.assert_array_equal(scene.images["wrist"], other.images["wrist"])


def test_the_folder_is_llavas_form_and_every_caption_agrees_with_its_state(folder: Path) -> None:
    entries = json.loads((folder / CONVERSATIONS).read_text())
    states = [json.loads(line) for line in (folder / STATES).read_text().splitlines()]
    assert len(states) == 12
    of_scene = {state["id"]: [one for one in entries if one["id"].startswith(state["id"] + "-")] for state in states}
    assert sum(map(len, of_scene.values())) == len(entries) == len({entry["id"] for entry in entries})
    for kept in states:
        state = WorldState(0, np.array(kept["values"]), tuple(kept["names"]))
        told = []
        for entry in of_scene[kept["id"]]:
            assert [Image.open(folder / name).size for name in entry["image"]] == [(128, 96)] * 2
            asked, answer = entry["conversations"]
            assert (asked["from"], answer["from"]) == ("human", "gpt")
            told.append((asked["value"].removeprefix("<image>\n"), answer["value"]))
        captions = [answer for question, answer in told if question == "what is there?"]
        assert len(captions) > 1, "it is asked for more often than anything else"
        assert all(read(caption) == describe(state) for caption in captions)
        assert sorted(set(told) - {("what is there?", captions[0])}) == sorted(questions(state))
    measured = [json.loads(line) for line in (folder / MEASURES).read_text().splitlines()]
    for line, kept in zip(measured, states, strict=True):
        assert all(name.startswith(f"images/{kept['id']}-") for name in line["images"])
        assert line["measures"] == measures(WorldState(0, np.array(kept["values"]), tuple(kept["names"])))
    assert len(Measured([folder / MEASURES], Pictures(32), 2)) == 12
    turns = Conversations([folder / CONVERSATIONS], Pictures(32), 2)
    assert len(turns) == len(entries)
    assert turns.turn(0).images.shape == (2, 32, 32, 3)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="front, wrist look at scenes, got side"):
        next(scenes(PANDA, WORLD, ("side",), ArmConfig(), 2, 0))
    there = CliRunner().invoke(app, ["scenes", "franka_upvla", "--out", str(tmp_path)])
    assert (there.exit_code, "already exists; give a new folder" in there.output) == (2, True)
    unknown = CliRunner().invoke(app, ["scenes", "nothing", "--out", str(tmp_path / "new")])
    assert unknown.exit_code == 2
