"""SystemConfig: what is refused and in which words; ROS parameters there and back."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from vla_ros import config
from vla_ros.actions import ActionSpec
from vla_ros.config import ConfigError, from_parameters, to_parameters
from vla_ros.control.limits import LimitsConfig
from vla_ros.robots.panda import PANDA
from vla_ros.values import Config

MINIMAL = """\
title: A test
robot: panda
policy: {name: scripted}
cameras:
  front: {topic: /camera/front/image_raw}
simulation: {}
"""


def _bomb(depth: int) -> bytes:
    """Ten times as many values with every line."""
    lines = ["a0: &a0 x", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth))]
    return "\n".join(lines).encode()


@pytest.fixture
def problems(tmp_path: Path) -> Any:
    """What loading a text says is wrong, without the file's name."""

    def load(text: str, policies: tuple[str, ...] = ()) -> list[str]:
        file = tmp_path / "system.yaml"
        file.write_text(text)
        try:
            config.load(str(file), policies)
        except ConfigError as error:
            told = error.problems
        else:
            told = []
        assert all(problem.startswith(f"{file}:") for problem in told)
        return [problem.removeprefix(f"{file}:") for problem in told]

    return load


# --- the shipped system ---------------------------------------------------------------------------------------------


def test_the_shipped_system_has_the_numbers_of_the_franka() -> None:
    system = config.load("franka_upvla")
    assert {name: camera.rate_hz for name, camera in system.cameras.items()} == {"front": 30.0, "wrist": 30.0}
    assert system.controller.rate_hz == 100.0
    assert (ActionSpec().rate_hz, ActionSpec().horizon) == (10.0, 10)
    assert {frame.name: frame.origin_xyz_m for frame in PANDA.fixed_frames}["panda_tcp"] == (0.0, 0.0, 0.1034)
    assert system.policy.name == "scripted"


def test_a_system_is_found_by_name_or_path() -> None:
    by_name = config.load("franka_upvla")
    assert by_name == config.load(str(Path(__file__).parents[1] / "config" / "franka_upvla.yaml"))
    assert "franka_upvla" in config.names()


@pytest.mark.parametrize(
    ("given_name", "text"),
    [
        ("franka_upvl", "franka_upvl: no such system; did you mean 'franka_upvla'?; there are: "),
        ("no/where.yaml", "no/where.yaml: no such file; systems that can be given by name: "),
    ],
)
def test_an_unknown_system_lists_those_there_are(given_name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(given_name)
    assert str(caught.value).startswith(text)
    assert "franka_upvla" in str(caught.value)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"title: A\nrobot: \xff\n", ":2: no UTF-8 text; save it as such"),
        (b"title: \x00\n", ": no valid YAML: control character #x00"),
        (b"title: &a [*a]\n", ": no valid YAML: "),
        (b"title: !!int one\n", ":1: title: has the tag !!int; write the value without one"),
        (b"title: !!binary aGk=\n", ":1: title: has the tag !!binary; write the value without one"),
        (b"title: !!bool x\n!!set a: !odd {b: 1}\n", ":1: title: has the tag !!bool; "),
        (b"a: " + b"[" * 5000, ":1: no valid YAML: brackets are nested too deeply"),
        (b"a: " + b"x" * 100_000, ": has 100003 bytes; a system has at most 50000"),
        (_bomb(9), ": more than 10000 values, with every use of an alias counted; a system has fewer"),
        (_bomb(60), ": more than 10000 values, with every use of an alias counted; a system has fewer"),
        (b"title: [\n", ":2: no valid YAML: "),
    ],
)
def test_what_is_no_yaml_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "system.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(str(file))
    assert str(caught.value).startswith(f"{file}{told}")


def test_the_minimal_system_is_fine(problems: Any) -> None:
    assert problems(MINIMAL) == []


def test_every_problem_is_told_at_once_with_its_line(problems: Any) -> None:
    told = problems(
        """\
title: A test
robot: pandaa
policy: {name: scripted, chekpoint: x}
cameras:
  front: {topic: camera/front, rate_hz: fast}
  wrist:
    heigth: 3
    topic: /camera/wrist
controller:
  rate_hz: -1
  schedule:
    mode: blnd
    blend_steps: 1.5
  command_interface: jont
inference: 3
simulation: {}
"""
    )
    keys = "keys here: rate_hz, latency_ms, tolerance_ms, frozen_after_ms, topic, width, height, frame, pose"
    assert sorted(told) == sorted(
        [
            "2: robot: unknown robot 'pandaa'; there are: panda",
            "3: policy.chekpoint: unknown key; did you mean 'checkpoint'?; "
            "keys here: name, checkpoint, device, dtype, compile, image_tokenizer_dtype",
            "5: cameras.front.rate_hz: wrong type (given 'fast'); should be a valid number",
            "5: cameras.front.topic: no valid ROS name (given 'camera/front'); "
            "should be absolute, as /camera/front/image_raw",
            f"7: cameras.wrist.heigth: unknown key; did you mean 'height'?; {keys}",
            "10: controller.rate_hz: not allowed (given -1); should be greater than or equal to 20",
            "12: controller.schedule.mode: unknown value (given 'blnd'); did you mean 'blend'?; "
            "should be 'newest', 'blend' or 'ensemble'",
            "13: controller.schedule.blend_steps: wrong type (given 1.5); should be a valid integer",
            "14: controller.command_interface: unknown value (given 'jont'); did you mean 'joint'?; "
            "should be 'joint' or 'cartesian'",
            "15: inference: wrong type (given 3); should be a mapping of keys to values",
        ]
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("title: A test\n", ""), "1: title: missing; it has no default"),
        (("title: A test", "title: 3"), "1: title: wrong type (given 3); should be a valid string"),
        (("title: A test", "titel: A test"), "1: titel: unknown key; did you mean 'title'?; "),
        (("  front: {topic: /camera/front/image_raw}", "  {}"), "4: cameras: no camera (given {}); should be at least"),
        (
            ("  front: {", "  Front: {"),
            "4: cameras: no valid camera name (given 'Front'); should be lower case letters",
        ),
        (("/camera/front/image_raw", "/camera//x"), "5: cameras.front.topic: no valid ROS name (given '/camera//x')"),
        (
            ("simulation", "  side: {topic: /camera/front/image_raw}\nsimulation"),
            "4: cameras: front and side share a topic (given /camera/front/image_raw); should be one topic each",
        ),
        (
            ("  front: {", "  side: {"),
            "4: cameras: the simulation has none of that name (given side); should be of front, wrist, or be described "
            "under simulation.cameras",
        ),
        (
            ("simulation: {}\n", ""),
            "3: policy: scripted sees the simulated world's state (given no section simulation); add that section, or "
            "choose another policy",
        ),
        (
            ("{name: scripted}", "{name: scripted, checkpoint: w.pt}"),
            "3: policy.checkpoint: policy scripted takes no checkpoint (given 'w.pt'); leave it out",
        ),
        (("simulation: {}", "simulation: {}\nrobot: panda"), "7: robot: given twice; keep one"),
        (("front: {", "front: {width: 64, width: 64, "), "5: cameras.front.width: given twice; keep one"),
        (("simulation: {}", "simulation: {"), "7: no valid YAML: "),
        (("front: {", "front: {latency_ms: .inf, "), "5: cameras.front.latency_ms: "),
        (
            ("front: {", "front: {latency_ms: true, "),
            "5: cameras.front.latency_ms: wrong type (given True); should be a",
        ),
        (
            ("front: {", "front: {width: '64', "),
            "5: cameras.front.width: wrong type (given '64'); should be a valid in",
        ),
        (
            ("front: {", "front: {frame: panda_hand, "),
            "5: cameras.front: a pose is in a frame (given frame 'panda_hand' alone); should be both, or neither",
        ),
        (
            ("front: {", "front: {frame: panda_hand, pose: [0, 0, 0, 1, 1, 0, 0], "),
            "5: cameras.front.pose: no pose (given 0, 0, 0, 1, 1, 0, 0); should be x y z qx qy qz qw, of which",
        ),
        (
            ("front: {", "front: {frame: panda_hnd, pose: [0, 0, 0, 1, 0, 0, 0], "),
            "4: cameras: front.frame is not a link of the panda (given 'panda_hnd'; did you mean 'panda_hand'?); ",
        ),
        (("title: A test", f"title: {'a' * 5000}"), "1: title: a text of 5000 characters (given 'aaaaaaaaaaaaaaaaaaaa"),
        (("title: A test", f"title: A\ninstruction: {'a' * 1001}"), "2: instruction: not allowed"),
        (("simulation: {}", "simulation: {}\ncontroller: {rate_hz: 1e-300}"), "7: controller.rate_hz: not allowed"),
        (("front: {", "front: {rate_hz: 1e-12, "), "5: cameras.front.rate_hz: not allowed (given 1e-12)"),
        (("front: {", "front: {rate_hz: 1e12, "), "5: cameras.front.rate_hz: not allowed (given 1000000000000.0)"),
        (
            ("front: {", "front: {latency_ms: 1e300, "),
            "5: cameras.front.latency_ms: too large (given 1e+300); should be",
        ),
        (
            ("front: {", "front: {frame: panda_hand, pose: [1e300, 0, 0, 1, 0, 0, 0], "),
            "5: cameras.front.pose: too large (given 1e+300); should be at most 1e+09",
        ),
        (
            ("simulation: {}", "simulation: {}\ncontroller: {limits: {tcp_jerk_m_s3: 1e-300}}"),
            "7: controller.limits.tcp_jerk_m_s3: too small (given 1e-300); should be at least 1e-09",
        ),
        (
            ("simulation: {}", "simulation: {}\nrecording: {health: {min_frames: 99999999999999999999}}"),
            "7: recording.health.min_frames: too large (given 1e+20); should be at most 9.22337e+18",
        ),
        (
            ("simulation: {}", "simulation: {}\ncontroller: {limits: {planes: {table.left: [0, 0, 1, 0]}}}"),
            "7: controller.limits: no valid name of a plane (given 'table.left'); should be letters, digits and _",
        ),
        (
            ("simulation: {}", "simulation: {cameras: {a.b: {position_m: [1, 0, 0], target_m: [0, 0, 0]}}}"),
            "6: simulation.cameras: no valid camera name (given 'a.b'); should be lower case letters, digits and _",
        ),
    ],
)
def test_one_problem(problems: Any, change: tuple[str, str], told: str) -> None:
    assert change[0] in MINIMAL
    found = problems(MINIMAL.replace(*change))
    assert len(found) >= 1
    assert any(problem.startswith(told) for problem in found), found


def test_what_is_no_mapping_is_refused(problems: Any) -> None:
    assert problems("- 1\n- 2\n") == ["1: should be a mapping of keys to values, as title: ..., robot: ..."]
    assert "1: title: missing; it has no default" in problems("")


def test_an_unknown_policy_lists_those_there_are(problems: Any) -> None:
    assert problems(MINIMAL, ("scripted", "up_vla")) == []
    text = MINIMAL.replace("scripted", "scrited").replace("panda", "pandaa")
    assert problems(text, ("scripted", "up_vla")) == [
        "2: robot: unknown robot 'pandaa'; there are: panda",
        "3: policy.name: unknown policy 'scrited'; did you mean 'scripted'?; there are: scripted, up_vla",
    ]


def test_numbers_and_words_are_read_as_yaml_1_2(problems: Any, tmp_path: Path) -> None:
    assert problems(MINIMAL.replace("A test", "no").replace("front: {", "front: {latency_ms: 1e1, ")) == []
    system = config.load(str(tmp_path / "system.yaml"))
    assert system.title == "no"
    assert system.cameras["front"].latency_ms == 10.0


# --- the command line's word ----------------------------------------------------------------------------------------


def test_override_changes_what_is_given() -> None:
    system = config.load("franka_upvla")
    assert config.override(system) == system
    changed = config.override(system, policy="up_vla", checkpoint="w", instruction="lift", bag="bag")
    assert changed.policy == config.PolicyConfig(name="up_vla", checkpoint="w")
    assert (changed.instruction, changed.bag) == ("lift", "bag")
    assert changed.cameras == system.cameras


def test_another_policy_does_not_keep_the_checkpoint() -> None:
    system = config.override(config.load("franka_upvla"), policy="up_vla", checkpoint="w")
    assert config.override(system, policy="up_vla").policy.checkpoint == "w"
    assert config.override(system, policy="scripted").policy.checkpoint == ""


def test_another_policy_is_computed_where_the_one_before_was() -> None:
    system = config.load("franka_upvla")
    on_cpu = system.model_copy(update={"policy": config.PolicyConfig(name="scripted", device="cpu", dtype="bfloat16")})
    changed = config.override(on_cpu, policy="up_vla", checkpoint="w").policy
    assert changed == config.PolicyConfig(name="up_vla", checkpoint="w", device="cpu", dtype="bfloat16")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:one", "CPU", ""])
def test_a_device_that_torch_would_not_know_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=rf"no device \(given '{device}'\); should be auto, cpu, cuda, or cuda:1"):
        config.PolicyConfig(name="up_vla", device=device)


def test_override_tells_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        config.override(config.load("franka_upvla"), robot="x", policy="y", policies=("scripted",))
    assert caught.value.problems == [
        "robot: unknown robot 'x'; there are: panda",
        "policy.name: unknown policy 'y'; there are: scripted",
    ]


# --- ROS parameters -------------------------------------------------------------------------------------------------


class Color(str, Enum):
    RED = "red"
    BLUE = "blue"


class Inner(Config):
    gain: float = 1.0
    box: tuple[float, float, float] = (0.0, 0.5, 1.0)
    flags: tuple[bool, ...] = ()


class Outer(Config):
    name: str = "x"
    color: Color = Color.RED
    steps: int = Field(default=3, ge=0)
    words: tuple[str, ...] = ()
    inner: Inner = Inner()
    maybe: Inner | None = None
    parts: dict[str, Inner] = Field(default_factory=dict)


reals = st.floats(-1e9, 1e9)
inners = st.builds(Inner, gain=reals, box=st.tuples(reals, reals, reals), flags=st.lists(st.booleans()).map(tuple))
outers = st.builds(
    Outer,
    name=st.text(),
    color=st.sampled_from(Color),
    steps=st.integers(0, 2**53),
    words=st.lists(st.text()).map(tuple),
    inner=inners,
    maybe=st.none() | inners,
    parts=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True), inners, max_size=3),
)


@given(outers)
def test_parameters_there_and_back(outer: Outer) -> None:
    parameters = to_parameters(outer)
    assert from_parameters(Outer, parameters) == outer
    for value in parameters.values():  # only what ROS knows
        items = value if isinstance(value, list) else [value]
        assert items
        assert {type(item) for item in items} <= {bool, int, float, str}
        assert len({type(item) for item in items}) == 1


@pytest.mark.parametrize("model", [config.InferenceNodeConfig, config.ControllerNodeConfig, config.SimulatorNodeConfig])
def test_the_defaults_of_every_node_there_and_back(model: type[Config]) -> None:
    assert from_parameters(model, to_parameters(model())) == model()
    assert from_parameters(model, {}) == model()


def test_nested_names_are_dotted() -> None:
    assert to_parameters(Outer(maybe=Inner(), parts={"a": Inner(flags=(True,))})) == {
        "name": "x",
        "color": "red",
        "steps": 3,
        "inner.gain": 1.0,
        "inner.box": [0.0, 0.5, 1.0],
        "maybe.gain": 1.0,
        "maybe.box": [0.0, 0.5, 1.0],
        "parts.a.gain": 1.0,
        "parts.a.box": [0.0, 0.5, 1.0],
        "parts.a.flags": [True],
    }


def test_what_ros_cannot_say_is_refused() -> None:
    class Pairs(Config):
        pairs: tuple[tuple[int, int], ...] = ()

    class Full(Config):
        words: tuple[str, ...] = ("a",)

    class Mixed(Config):
        values: tuple[float | str, ...] = ()

    with pytest.raises(ValueError, match=r"pairs: \(1, 2\) cannot be a ROS parameter; those are bool, int, float, str"):
        to_parameters(Pairs(pairs=((1, 2),)))
    with pytest.raises(ValueError, match=r"words: \(\) cannot be a ROS parameter, and its default is another"):
        to_parameters(Full(words=()))
    with pytest.raises(ValueError, match=r"values: \(1.0, 'a'\) mixes types; a list of ROS parameters has one"):
        to_parameters(Mixed(values=(1.0, "a")))


def test_every_wrong_parameter_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        from_parameters(Outer, {"inner.gian": 1.0, "color": "green", "parts.a.box": [1.0, 2.0], "steps": "3"})
    assert sorted(caught.value.problems) == [
        "color: unknown value (given 'green'); should be 'red' or 'blue'",
        "inner.gian: unknown key; did you mean 'gain'?; keys here: gain, box, flags",
        "parts.a.box.2: missing; it has no default",
        "steps: wrong type (given '3'); should be a valid integer",
    ]


def test_a_parameter_and_one_below_it_cannot_both_be_given() -> None:
    for parameters in ({"inner": 1, "inner.gain": 1.0}, {"inner.gain": 1.0, "inner": 1}):
        with pytest.raises(ConfigError, match="inner"):
            from_parameters(Outer, parameters)


def test_the_text_of_a_part_s_own_error_is_kept() -> None:
    with pytest.raises(ConfigError) as caught:
        from_parameters(LimitsConfig, {"workspace_lower_m": [1.0, 0.0, 0.0], "workspace_upper_m": [0.0, 1.0, 1.0]})
    assert "must be below" in str(caught.value)
