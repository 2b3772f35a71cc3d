"""The node graph as data: executables, their parameters, what they read and write; wiring checks; Mermaid."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from vla_ros import topics
from vla_ros.config import (
    SCRIPTED,
    BagNodeConfig,
    CameraConfig,
    ConfigError,
    ControllerNodeConfig,
    InferenceNodeConfig,
    Parameter,
    RecorderNodeConfig,
    SimulatorNodeConfig,
    SystemConfig,
    between_frames,
    to_parameters,
)
from vla_ros.robots import catalogue
from vla_ros.robots.robot import Endpoint, EndpointKind, Robot
from vla_ros.simulation import tasks
from vla_ros.values import Config, Mode

PACKAGE = "vla_ros"

#: What a node ends with when it cannot be made as configured: to start it again would change nothing.
EXIT_CONFIG = 2
#: Pauses before a node starts again, one after the other; a node that has lived for a minute begins with the first.
PAUSES_S = (0.5, 1.0, 2.0, 4.0)
_PROVEN_S = 60.0

_IMAGE = "sensor_msgs/msg/Image"
_COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_TF = tuple(Endpoint(name, "tf2_msgs/msg/TFMessage") for name in ("/tf", "/tf_static"))
_CLOCK = Endpoint("/clock", "rosgraph_msgs/msg/Clock")

#: Topics on which several nodes speak, each about itself.
SHARED = (topics.STATE, topics.DIAGNOSTICS, *(end.name for end in _TF))


@dataclass(frozen=True)
class NodeSpec:
    """One process: its executable, its name, its flat ROS parameters, and what it talks about.

    `reads`: topics it subscribes to, services and actions it serves. `writes`: topics it publishes, services and
    actions it calls. `remappings`: pairs (from, to). `restarts`: whether it may start again when it ended by itself;
    if not, its end is the end of the system.
    """

    executable: str
    name: str
    namespace: str = topics.NAMESPACE
    params: Mapping[str, Parameter] = field(default_factory=dict)
    reads: tuple[Endpoint, ...] = ()
    writes: tuple[Endpoint, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    restarts: bool = False


class Restarts:
    """Whether and when one node starts again: the rules of launch files and of the Supervisor alike."""

    def __init__(self, node: NodeSpec) -> None:
        self._may_restart = node.restarts
        self._count = 0

    def pause_s(self, exit_code: int, lived_s: float) -> float | None:
        """How long to wait before it starts again after a life of `lived_s`; None when it does not: the system ends.

        That is where the node may not start again, where its configuration is wrong and will stay so, and where it did
        not live several times one after the other. `exit_code` is negative for a signal, as in subprocess.
        """
        if not self._may_restart or exit_code == EXIT_CONFIG:
            return None
        if lived_s >= _PROVEN_S:
            self._count = 0
        self._count += 1
        return PAUSES_S[self._count - 1] if self._count <= len(PAUSES_S) else None


def ending(node: NodeSpec, exit_code: int) -> str:
    """How a node ended, in words."""
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
    return f"node {node.name} {how}"


@dataclass(frozen=True)
class External:
    """Somebody outside this graph: a driver, a camera, a person."""

    name: str
    title: str
    reads: tuple[Endpoint, ...] = ()
    writes: tuple[Endpoint, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A system's nodes in the order in which they start, and who is expected around them."""

    title: str
    nodes: tuple[NodeSpec, ...]
    externals: tuple[External, ...] = ()

    @property
    def is_simulated(self) -> bool:
        """Whether its robot is a simulated one."""
        return any(node.executable == "simulator" for node in self.nodes)

    @property
    def members(self) -> tuple[NodeSpec | External, ...]:
        """Everybody who speaks or listens."""
        return (*self.nodes, *self.externals)


def build(
    system: SystemConfig,
    *,
    simulate: bool | None = None,
    seed: int = 0,
    dry_run: bool = False,
    by_hand: bool = False,
) -> Graph:
    """The graph of a system; `simulate` None: as the system says (it has a simulation section or not).

    `seed` is the first episode's in simulation. `dry_run`: the controller sends nothing to the driver.
    `by_hand`: a person demonstrates; in simulation the scripted expert does not run then, and the arm follows teleop.
    Raises ConfigError where the system cannot run that way.
    """
    simulate = _simulates(system, simulate)
    if not simulate and system.policy.name == SCRIPTED:
        raise ConfigError(
            [f"policy: {SCRIPTED} sees the simulated world's state; choose another one for the real robot"]
        )
    robot = catalogue.find(system.robot)
    # A simulated arm that was told what to do does it; a real one waits for the operator's word.
    mode = Mode.POLICY if simulate and system.instruction else Mode.HOLD
    has_policy = not (by_hand and simulate and system.policy.name == SCRIPTED)
    nodes = [_controller(system, robot, mode if has_policy else Mode.TELEOP, dry_run)]
    externals = [_OPERATOR]
    if has_policy:
        nodes.insert(0, _inference(system, robot))
    if simulate:
        nodes.insert(0, _simulator(system, robot, seed))
    else:
        externals += [_driver(robot, system.controller.command_interface), *_cameras(system)]
    # Both before the controller, so that they end after it: an arm that is told to end waits for no file to close.
    if system.record:
        nodes.insert(-1, _recorder(system, robot, system.policy.name if has_policy else Mode.TELEOP.value))
    if system.bag:
        nodes.insert(-1, _bag(system.bag, (*nodes, *externals)))
    if not has_policy:  # so nobody writes chunks
        nodes = [replace(node, reads=tuple(end for end in node.reads if end.name != topics.CHUNK)) for node in nodes]
    timed = (node if node.executable == "simulator" else _timed(node, simulate) for node in nodes)
    return Graph(system.title, tuple(timed), tuple(externals))


def build_without_policy(system: SystemConfig, *, simulate: bool | None = None, seed: int = 0) -> Graph:
    """The graph in which an operator's program takes the policy's place, such as a calibration; otherwise as `build`.

    The arm waits to be started.
    """
    simulate = _simulates(system, simulate)
    robot = catalogue.find(system.robot)
    nodes = [_timed(_controller(system, robot, Mode.HOLD), simulate)]
    if simulate:
        nodes.insert(0, _simulator(system, robot, seed))
    return Graph(system.title, tuple(nodes), (_OPERATOR,))


def _simulates(system: SystemConfig, asked: bool | None) -> bool:
    """Whether the system runs in simulation: as asked for, or else as it says."""
    if asked and system.simulation is None:
        raise ConfigError(["simulation: asked for, but the system has no such section; add it, or run without"])
    return system.simulation is not None if asked is None else asked


def check(graph: Graph) -> list[str]:
    """What is wrong with the wiring, one sentence each; empty when nothing is."""
    return [*_type_problems(graph), *_silent_problems(graph), *_crowded_problems(graph)]


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart: topics as full arrows, services and actions as dotted ones."""
    lines = [f"%% {graph.title}", "flowchart LR"]
    lines += [f'    {node.name}["{node.name}"]' for node in graph.nodes]
    lines += [f'    {external.name}(["{external.title}"])' for external in graph.externals]
    for writer in graph.members:
        for reader in graph.members:
            between = [end for end in writer.writes if writer is not reader and end.name in _names(reader.reads)]
            said = [end.name for end in between if end.kind is EndpointKind.TOPIC]
            asked = [end.name for end in between if end.kind is not EndpointKind.TOPIC]
            if said:
                lines.append(f'    {writer.name} -->|"{"<br/>".join(said)}"| {reader.name}')
            if asked:
                lines.append(f'    {writer.name} -.->|"{"<br/>".join(asked)}"| {reader.name}')
    return "\n".join(lines) + "\n"


# --- the members of a graph -----------------------------------------------------------------------------------------


def _simulator(system: SystemConfig, robot: Robot, seed: int) -> NodeSpec:
    world = system.world
    assert world is not None
    if world.instruction:
        _refuse_unless_a_task(world.instruction)
    config = SimulatorNodeConfig(robot=robot.name, world=world, cameras=system.cameras, seed=seed)
    # Not started again: another world, in which time begins anew, is another run.
    return _node(
        "simulator",
        config,
        reads=(
            *_to_driver(robot, system.controller.command_interface),
            _ours(topics.SIMULATION_RESET),
            _ours(topics.STATE),  # of its own name: another simulator
        ),
        writes=(
            *_from_driver(robot),
            *_images(system.cameras),
            *_camera_infos(system.cameras),
            _ours(topics.SIMULATION_STATE),
            *_TF,
            _CLOCK,
            *_ABOUT_ITSELF,
        ),
    )


def _refuse_unless_a_task(instruction: str) -> None:
    """The simulated world must be able to judge what it is asked for; a real robot may be told anything."""
    try:
        tasks.parse(instruction)
    except ValueError as error:
        raise ConfigError([f"instruction: {error}"]) from None


def _inference(system: SystemConfig, robot: Robot) -> NodeSpec:
    config = InferenceNodeConfig(
        **dict(system.inference),
        robot=robot.name,
        policy=system.policy,
        instruction=system.instruction,
        cameras=system.cameras,
        action=system.action,
        schedule=system.controller.schedule,
    )
    others_see = (robot.endpoints["gripper_joint_states"], _ours(topics.COMMAND))
    seen = (_ours(topics.SIMULATION_STATE),) if system.policy.name == SCRIPTED else others_see
    predictions = (Endpoint(topics.prediction(name), _COMPRESSED_IMAGE) for name in system.cameras)
    # It keeps nothing that the next one needs; while there is none the controller holds the arm.
    return _node(
        "inference",
        config,
        reads=(
            *_images(system.cameras),
            robot.endpoints["joint_states"],
            *seen,
            _ours(topics.INSTRUCTION),
            _ours(topics.ASK),
            _ours(topics.STATE),  # of the controller, which drops what was planned; and of its own name
        ),
        writes=(_ours(topics.CHUNK), *predictions, *_ABOUT_ITSELF),
        restarts=True,
    )


def _controller(system: SystemConfig, robot: Robot, mode: Mode, dry_run: bool = False) -> NodeSpec:
    # Not started again: the arm holds the last target that its driver got, and a person should look before it moves.
    return _node(
        "controller",
        ControllerNodeConfig(robot=robot.name, arm=system.controller, mode=mode, dry_run=dry_run),
        reads=(
            _ours(topics.CHUNK),
            _ours(topics.TELEOP),
            _ours(topics.DEADMAN),
            _ours(topics.STATE),  # of the inference node, whose silence is a reason to stop; and of its own name
            *_from_driver(robot),
            *(_ours(name) for name in _TO_CONTROLLER),
        ),
        writes=(
            *(end for end in _to_driver(robot, system.controller.command_interface) if end.used),
            _ours(topics.COMMAND),
            _ours(topics.REQUESTED),
            *_ABOUT_ITSELF,
        ),
    )


def _recorder(system: SystemConfig, robot: Robot, source: str) -> NodeSpec:
    if problems := between_frames(system.cameras, system.recording.fps):
        raise ConfigError(problems)
    config = RecorderNodeConfig(
        root=system.record,
        robot=robot.name,
        cameras=system.cameras,
        recording=system.recording,
        instruction=system.instruction,
        source=source,
    )
    heard = (topics.COMMAND, topics.REQUESTED, topics.CHUNK, topics.STATE, topics.INSTRUCTION)
    # Every saved episode is kept; the next one goes on with the dataset.
    return _node(
        "recorder",
        config,
        reads=(
            *_images(system.cameras),
            robot.endpoints["joint_states"],
            robot.endpoints["gripper_joint_states"],
            *(_ours(name) for name in (*heard, *_TO_RECORDER)),
        ),
        writes=_ABOUT_ITSELF,
        restarts=True,
    )


def _bag(path: str, members: Iterable[NodeSpec | External]) -> NodeSpec:
    said = {end.name: end for member in members for end in member.writes if end.kind is EndpointKind.TOPIC}
    # The arm needs no bag; the next node writes one of its own.
    config = BagNodeConfig(path=path, topics=tuple(said))
    return _node("bag", config, said.values(), _ABOUT_ITSELF, restarts=True)


def _driver(robot: Robot, command_interface: str) -> External:
    return External("driver", f"driver of the {robot.title}", _to_driver(robot, command_interface), _from_driver(robot))


def _cameras(system: SystemConfig) -> tuple[External, ...]:
    return tuple(
        External(f"camera_{name}", f"camera {name}", writes=_images({name: camera}))
        for name, camera in system.cameras.items()
    )


def _node(
    executable: str, config: Config, reads: Iterable[Endpoint], writes: Iterable[Endpoint], restarts: bool = False
) -> NodeSpec:
    params = to_parameters(config)
    return NodeSpec(executable, executable, params=params, reads=tuple(reads), writes=tuple(writes), restarts=restarts)


def _timed(node: NodeSpec, simulate: bool) -> NodeSpec:
    """The node with the simulation's time, or the machine's."""
    reads = (*node.reads, _CLOCK) if simulate else node.reads
    return replace(node, params={**node.params, "use_sim_time": simulate}, reads=reads)


#: What an operator says to the controller, and to the recorder.
_TO_CONTROLLER = (topics.START, topics.STOP, topics.HOLD, topics.RESUME, topics.ESTOP, topics.HOME_GRIPPER)
_TO_RECORDER = (topics.RECORDER_CONTROL, topics.RECORDER_NOTES, *map(topics.recorder, topics.RECORDER_WORDS))

# --- what they talk about -------------------------------------------------------------------------------------------


def _ours(name: str) -> Endpoint:
    kind = EndpointKind.SERVICE if "/srv/" in topics.TABLE[name][0] else EndpointKind.TOPIC
    return Endpoint(name, topics.TABLE[name][0], kind)


def _to_driver(robot: Robot, command_interface: str) -> tuple[Endpoint, ...]:
    """What is written to the driver: of its two command topics, the one in use."""
    unused = "pose_desired" if command_interface == "joint" else "joints_desired"
    return tuple(end for key, end in robot.endpoints.items() if not end.from_driver and key != unused)


def _from_driver(robot: Robot) -> tuple[Endpoint, ...]:
    return tuple(end for end in robot.endpoints.values() if end.from_driver)


def _images(cameras: Mapping[str, CameraConfig]) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(camera.topic, _COMPRESSED_IMAGE if camera.is_compressed else _IMAGE, rate_hz=camera.rate_hz)
        for camera in cameras.values()
    )


def _camera_infos(cameras: Mapping[str, CameraConfig]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(camera.info_topic, _CAMERA_INFO) for camera in cameras.values())


#: Every node says how it is.
_ABOUT_ITSELF = (_ours(topics.STATE), _ours(topics.DIAGNOSTICS))

_OPERATOR = External(
    "operator",
    "operator",
    writes=tuple(
        _ours(name)
        for name in (
            topics.INSTRUCTION,
            topics.ASK,
            *_TO_CONTROLLER,
            topics.TELEOP,
            topics.DEADMAN,
            topics.SIMULATION_RESET,
            *_TO_RECORDER,
        )
    ),
)


def _names(ends: Iterable[Endpoint]) -> tuple[str, ...]:
    return tuple(end.name for end in ends)


# --- wiring ---------------------------------------------------------------------------------------------------------


def _type_problems(graph: Graph) -> Iterator[str]:
    types: dict[str, dict[str, str]] = {}
    for member in graph.members:
        for end in (*member.reads, *member.writes):
            types.setdefault(end.name, {}).setdefault(end.type, member.name)
    for name, users in types.items():
        if len(users) > 1:
            yield f"{name}: " + ", but ".join(f"{user} takes it for {kind}" for kind, user in users.items())


def _silent_problems(graph: Graph) -> Iterator[str]:
    written = {name for member in graph.members for name in _names(member.writes)}
    served = {name for member in graph.members for name in _names(member.reads)}
    for node in graph.nodes:
        for end in node.reads:
            if end.kind is EndpointKind.TOPIC and end.name not in written:
                yield f"{end.name}: {node.name} reads it, but no node writes it"
        for end in node.writes:
            if end.kind is not EndpointKind.TOPIC and end.name not in served:
                yield f"{end.name}: {node.name} calls it, but no node serves it"


def _crowded_problems(graph: Graph) -> Iterator[str]:
    writers: dict[str, list[str]] = {}
    for member in graph.members:
        for end in member.writes:
            if end.kind is EndpointKind.TOPIC and end.name not in SHARED:
                writers.setdefault(end.name, []).append(member.name)
    for name, several in writers.items():
        if len(several) > 1:
            yield f"{name}: written by {' and '.join(several)}; a command or a stream has one writer"
