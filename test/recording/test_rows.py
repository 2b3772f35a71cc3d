"""RowAssembler against a plain search of everything that was captured: no row is lost, none shows what is another's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.control import kinematics
from vla_ros.recording import features as keys
from vla_ros.recording.assembling.rows import RowAssembler
from vla_ros.recording.config import ActionSource, GapRule, HealthConfig, RecordingConfig
from vla_ros.recording.features import MODES, SAFETY_STATES, Row, of_robot
from vla_ros.robots.panda import PANDA
from vla_ros.timing.sync import CameraTiming
from vla_ros.values import Array, Command, Image, Mode, SafetyState, Target

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000
HOME = np.array(PANDA.home_rad)
JOINTS = PANDA.joint_names
SIZE = (2, 2)
seeds = st.integers(0, 2**32)
FORWARD = kinematics.for_robot(PANDA).forward


def picture(number: int) -> Image:
    """A tiny image that says which frame it is."""
    return np.full((*SIZE, 3), (number % 256, number // 256, 7), dtype=np.uint8)


def number_of(image: Image) -> int:
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def assembler(cameras: dict[str, CameraTiming] | None = None, decode: Any = None, **more: Any) -> RowAssembler:
    cameras = {"front": CameraTiming()} if cameras is None else cameras
    config = RecordingConfig(**more)
    features = of_robot(PANDA, dict.fromkeys(cameras, SIZE), config.fps)
    decoding = {} if decode is None else {"decode": decode}
    return RowAssembler(PANDA, features, cameras, config, **decoding)


def joints_at(stamp_ns: int) -> Array:
    return HOME + 0.2 * np.sin((stamp_ns - START_NS) * 1e-9 * np.arange(1, 8))


def width_at(stamp_ns: int) -> float:
    return 0.04 + 0.03 * float(np.cos((stamp_ns - START_NS) * 1e-9))


def command(stamp_ns: int, joints: Array = HOME, width_m: float | None = 0.05, requested: Any = None) -> Command:
    return Command(stamp_ns, joints, np.zeros(7), FORWARD(joints), width_m, requested)


# --- a recording, and what it should become


@dataclass(frozen=True)
class Message:
    """Something captured (or said) at `stamp_ns` that arrives at `arrival_ns`."""

    arrival_ns: int
    kind: str
    stamp_ns: int
    number: int


@dataclass(frozen=True)
class Recording:
    """Everything of a few seconds; `captured`: camera -> capture time -> number of the frame, of those not lost."""

    fps: int
    timing: dict[str, CameraTiming]
    captured: dict[str, dict[int, int]]
    messages: tuple[Message, ...]
    start_ns: int
    end_ns: int

    def times(self, kind: str) -> list[int]:
        return sorted(message.stamp_ns for message in self.messages if message.kind == kind)


def stream(
    random: Random,
    kind: str,
    rate_hz: float,
    phase_ms: int,
    until_ns: int,
    *,
    jitter_ms: float = 0.0,
    lost: float = 0.0,
    longest_burst: int = 8,
    delay_ms: float = 5.0,
    overtakes: bool = False,
) -> list[Message]:
    """One stream at about `rate_hz`; some of it lost, alone or in bursts, each late by up to `delay_ms`."""
    messages, arrived_ns, burst = [], 0, 0
    for number in range(int((until_ns - START_NS) * 1e-9 * rate_hz)):
        stamp_ns = START_NS + round(number * 1e9 / rate_hz + (phase_ms + random.uniform(0, jitter_ms)) * MS)
        if burst == 0 and random.random() < lost:
            burst = random.choice((1, 1, 2, longest_burst))
        if burst:
            burst -= 1
            continue
        arrival_ns = stamp_ns + round(random.uniform(0, delay_ms) * MS)
        arrived_ns = arrival_ns if overtakes else max(arrived_ns, arrival_ns)
        messages.append(Message(arrived_ns, kind, stamp_ns, number))
    return messages


def recording_of(seed: int) -> Recording:
    """Cameras out of phase, jittering, losing frames, late; rows at another rate than theirs."""
    random = Random(seed)
    until_ns = START_NS + 2200 * MS
    timing, captured, messages = {}, {}, []
    for name in ("front", "wrist", "side")[: random.randint(1, 3)]:
        rate_hz = random.choice((15.0, 29.97, 30.0, 60.0))
        tolerance_ms = min(20.0, 600.0 / rate_hz)
        overtakes = random.random() < 0.3  # what is overtaken must not be late: nobody could tell it from lost
        latency_ms = 0.0 if overtakes else random.choice((0.0, 12.5, 90.0))
        timing[name] = CameraTiming(rate_hz=rate_hz, latency_ms=latency_ms, tolerance_ms=tolerance_ms)
        frames = stream(
            random, name, rate_hz, random.randint(0, 66), until_ns,
            jitter_ms=random.choice((0.0, 4.0, 15.0)), lost=random.choice((0.0, 0.03, 0.3)),
            delay_ms=10.0 if overtakes else random.choice((1.0, 40.0, 180.0)), overtakes=overtakes,
        )  # fmt: skip
        captured[name] = {frame.stamp_ns: frame.number for frame in frames}
        late_ns = round(latency_ms * MS)
        messages += [
            Message(frame.arrival_ns + late_ns, name, frame.stamp_ns + late_ns, frame.number) for frame in frames
        ]
    messages += stream(random, "joints", 100.0, 0, until_ns, jitter_ms=4.0, lost=0.02, longest_burst=3)
    messages += stream(random, "gripper", 30.0, 3, until_ns, delay_ms=20.0)
    messages += stream(
        random, "command", 50.0, random.randint(0, 900), until_ns, jitter_ms=10.0, delay_ms=25.0, overtakes=True
    )
    start_ns = START_NS + random.randint(0, 700) * MS
    return Recording(random.choice((10, 30, 50)), timing, captured, tuple(messages), start_ns, START_NS + 1700 * MS)


def give(sync: RowAssembler, message: Message, received_ns: int) -> None:
    if message.kind == "joints":
        sync.add_joints(message.stamp_ns, received_ns, joints_at(message.stamp_ns))
    elif message.kind == "gripper":
        sync.add_gripper(message.stamp_ns, received_ns, width_at(message.stamp_ns))
    elif message.kind == "command":
        sync.add_command(command(message.stamp_ns, HOME + 1e-3 * message.number))
    else:
        sync.add_image(message.kind, message.stamp_ns, received_ns, picture(message.number))


def record(recording: Recording, order: Iterable[Message], arrives: Any, asks_every_ms: int) -> list[Row]:
    """The rows of an episode from `start_ns` to `end_ns`, asked for every so often."""
    sync = assembler(recording.timing, fps=recording.fps)
    asked_ns, is_started, rows = START_NS, False, []
    for message in order:
        now_ns = arrives(message)
        if not is_started and now_ns >= recording.start_ns:
            sync.start(recording.start_ns)
            is_started = True
        give(sync, message, now_ns)
        if now_ns >= asked_ns + asks_every_ms * MS:
            rows += sync.rows(now_ns)
            asked_ns = now_ns
        if now_ns >= recording.end_ns:
            sync.pause(recording.end_ns)
    rows += sync.rows(START_NS + 3000 * MS)
    assert not sync.is_settling
    assert sync.stop(START_NS + 3000 * MS) == []
    assert sync.health.rows == len(rows)
    return rows


def live(recording: Recording, asks_every_ms: int = 7) -> list[Row]:
    order = sorted(recording.messages, key=lambda message: message.arrival_ns)
    return record(recording, order, lambda message: message.arrival_ns, asks_every_ms)


def nearest(stamps: Iterable[int], instant_ns: int, within_ms: float) -> int | None:
    """Written to be read: look at every one."""
    best = None
    for stamp in sorted(stamps):
        if best is None or abs(stamp - instant_ns) < abs(best - instant_ns):
            best = stamp
    return best if best is not None and abs(best - instant_ns) <= within_ms * MS else None


def instants(recording: Recording) -> Iterator[int]:
    """The grid of an episode: from the first instant that everything can answer."""
    everything = [
        *((frames, recording.timing[name].tolerance_ms) for name, frames in recording.captured.items()),
        *((recording.times(kind), 100.0) for kind in ("joints", "gripper")),
    ]
    stamps = sorted(stamp for frames in recording.captured.values() for stamp in frames if stamp >= recording.start_ns)
    first_ns = next((s for s in stamps if all(nearest(one, s, within) is not None for one, within in everything)), None)
    row = 0
    while first_ns is not None and first_ns + round(row * 1e9 / recording.fps) <= recording.end_ns:
        yield first_ns + round(row * 1e9 / recording.fps)
        row += 1


@given(seeds, st.integers(1, 80))
def test_every_row_shows_what_is_nearest_its_instant_or_is_marked(seed: int, asks_every_ms: int) -> None:
    recording = recording_of(seed)
    rows = live(recording, asks_every_ms)
    expected = list(instants(recording))
    assert [row.instant_ns for row in rows] == expected
    joint_times, gripper_times = (np.array(recording.times(kind)) - START_NS for kind in ("joints", "gripper"))
    joints = np.array([joints_at(START_NS + int(time)) for time in joint_times]).T
    widths = [width_at(START_NS + int(time)) for time in gripper_times]
    commands = {message.stamp_ns: message.number for message in recording.messages if message.kind == "command"}
    cameras = list(recording.captured)
    for index, row in enumerate(rows):
        stamps = []
        for place, (camera, frames) in enumerate(recording.captured.items()):
            stamp_ns = nearest(frames, row.instant_ns, recording.timing[camera].tolerance_ms)
            assert row.values[keys.REPEATED][place] == float(stamp_ns is None)
            if stamp_ns is None:
                assert row.images[camera] is rows[index - 1].images[camera]
                assert row.values[keys.STAMP][place] == rows[index - 1].values[keys.STAMP][place]
            else:
                assert number_of(row.images[camera]) == frames[stamp_ns]
                assert row.values[keys.STAMP][place] == pytest.approx((stamp_ns - expected[0]) * 1e-9, abs=1e-12)
            stamps.append(row.values[keys.STAMP][place])
        assert row.values[keys.SKEW][0] == pytest.approx(max(stamps) - min(stamps), abs=1e-12)
        assert row.values[keys.REPEATED].shape == (len(cameras) + 2,)
        after_ns = row.instant_ns - START_NS
        state = [*(np.interp(after_ns, joint_times, one) for one in joints), np.interp(after_ns, gripper_times, widths)]
        np.testing.assert_allclose(row.values[keys.STATE], state, atol=1e-9)
        sent = [time for time in commands if time <= row.instant_ns]
        followed = HOME + 1e-3 * commands[max(sent)] if sent else row.values[keys.STATE][:7]
        np.testing.assert_allclose(row.values[keys.ACTION][:7], followed, atol=1e-12)
        np.testing.assert_array_equal(row.values[keys.SENT][:7], row.values[keys.ACTION][:7])
        np.testing.assert_allclose(row.values[keys.SENT][7:14], FORWARD(row.values[keys.SENT][:7]), atol=1e-12)
        assert row.values[keys.ACTION][7] == row.values[keys.SENT][14] == (0.05 if sent else row.values[keys.STATE][7])


@given(seeds, st.integers(1, 80))
def test_the_order_of_arrival_never_shows(seed: int, asks_every_ms: int) -> None:
    recording = recording_of(seed)
    in_order = sorted(recording.messages, key=lambda message: message.stamp_ns)
    at_once = record(recording, in_order, lambda message: message.stamp_ns, 20)
    assert_same(live(recording, asks_every_ms), at_once)


def assert_same(rows: Sequence[Row], others: Sequence[Row]) -> None:
    assert [row.instant_ns for row in rows] == [row.instant_ns for row in others]
    for row, other in zip(rows, others, strict=True):
        assert row.values.keys() == other.values.keys()
        np.testing.assert_array_equal(np.concatenate([*row.values.values()]), np.concatenate([*other.values.values()]))
        assert [*map(number_of, row.images.values())] == [*map(number_of, other.images.values())]


# --- one thing at a time


class Bench:
    """An arm at home that stays there, one camera at 30 Hz, everything on time; and a clock moved by hand."""

    def __init__(self, **more: Any) -> None:
        self.sync = assembler(**more)
        self.now_ns = START_NS
        self.rows: list[Row] = []

    def run(self, seconds: float, image: Any = picture, joints: bool = True, moving: bool = False) -> Bench:
        for _ in range(round(seconds * 1000)):
            self.now_ns += MS
            after_ms = (self.now_ns - START_NS) // MS
            if after_ms % 10 == 0 and joints:
                positions = HOME + (0.1 * after_ms * 1e-3 if moving else 0.0)
                self.sync.add_joints(self.now_ns, self.now_ns, positions)
                self.sync.add_gripper(self.now_ns, self.now_ns, 0.04)
            if after_ms % 33 == 0 and image is not None:
                self.sync.add_image("front", self.now_ns, self.now_ns, image(after_ms // 33))
            self.rows += self.sync.rows(self.now_ns)
        return self

    def start(self) -> Bench:
        self.sync.start(self.now_ns)
        return self

    def stop(self) -> Bench:
        self.rows += self.sync.stop(self.now_ns)
        return self

    def column(self, key: str) -> list[float]:
        return [float(row.values[key][0]) for row in self.rows]


def test_a_row_has_every_column_of_the_features() -> None:
    bench = Bench().start().run(0.5).stop()
    features = of_robot(PANDA, {"front": SIZE}, 30)
    for row in bench.rows:
        assert [*row.values] == [feature.key for feature in features.columns]
        assert all(row.values[feature.key].shape == feature.shape for feature in features.columns)
        assert [*row.images] == ["front"]


def test_a_camera_that_falls_silent_is_repeated_marked_and_counted() -> None:
    bench = Bench().run(0.2).start().run(0.5).run(0.3, image=None).run(0.5)
    numbers = [number_of(row.images["front"]) for row in bench.rows]
    marks = [row.values[keys.REPEATED][0] for row in bench.rows]
    gap = [index for index, mark in enumerate(marks) if mark]
    assert gap == [*range(gap[0], gap[-1] + 1)], "one gap"
    assert 7 <= len(gap) <= 10, "of 0.3 s, less what the frames at its ends stand for"
    assert {numbers[index] for index in gap} == {numbers[gap[0] - 1]}
    health = bench.sync.health
    assert health.repeated == {"front": len(gap), "joints": 0, "gripper": 0}
    assert health.repeated_rows == health.longest_run == len(gap)
    assert health.rejected == ""
    assert health.rate_hz == pytest.approx(30 * (1 - len(gap) / len(numbers)))
    still = HealthConfig(min_motion_rad=0.0)
    said = health.problems(still)
    assert [text.partition(" ")[2][:20] for text in said] == ["of the rows repeat s", "rows on end repeat o"]
    assert f"(front {len(gap)}x)" in said[0]
    assert health.problems(still.model_copy(update={"max_repeated": 1.0, "max_repeated_in_a_row": 99})) == ()
    assert health.problems(HealthConfig(min_frames=1000))[0] == f"{len(numbers)} rows, at least 1000 make an episode"


def test_joints_that_fall_silent_are_repeated_too() -> None:
    bench = Bench().start().run(0.5).run(0.4, joints=False).run(0.3)
    assert bench.sync.health.repeated["front"] == 0
    assert bench.sync.health.repeated["joints"] == bench.sync.health.repeated["gripper"] > 3
    assert {tuple(row.values[keys.REPEATED]) for row in bench.rows} == {(0.0, 0.0, 0.0), (0.0, 1.0, 1.0)}


def test_a_gap_may_reject_the_episode_and_says_where() -> None:
    bench = Bench(gaps=GapRule.REJECT).start().run(0.5).run(0.2, image=None).run(0.5)
    assert len(bench.rows) > 30, "rows go on"
    rejected = bench.sync.health.rejected
    first = next(index for index, row in enumerate(bench.rows) if row.values[keys.REPEATED][0])
    assert rejected.startswith(f"row {first}: camera front: nothing within 20 ms of the instant; the nearest is ")
    assert bench.sync.health.problems(HealthConfig())[0] == rejected
    bench.start()
    assert bench.sync.health.rejected == "", "the next episode begins anew"


def test_a_frame_that_comes_too_late_is_missing_and_nothing_shifts() -> None:
    bench = Bench(settle_ms=100.0).start().run(0.5)
    late_ns = bench.now_ns - bench.now_ns % MS + 20 * MS
    bench.run(0.25, image=None)
    bench.sync.add_image("front", late_ns, bench.now_ns, picture(999))
    bench.run(0.3)
    assert all(number_of(row.images["front"]) != 999 for row in bench.rows)
    for row in bench.rows:
        if not row.values[keys.REPEATED][0]:
            shown_ns = START_NS + 33 * MS * number_of(row.images["front"])
            assert abs(shown_ns - row.instant_ns) <= 20 * MS


def test_what_cannot_be_decoded_is_a_gap_and_no_beginning() -> None:
    def decode(given: Image) -> Image:
        if number_of(given) in (0, 1, 2, 3, 10):
            raise ValueError("no image at all")
        return given

    bench = Bench(decode=decode).start().run(0.1)
    assert bench.rows == []
    assert bench.sync.reason(bench.now_ns) == "no image at all"
    bench.run(0.9)
    assert bench.sync.reason(bench.now_ns) == ""
    assert bench.rows[0].instant_ns == START_NS + 4 * 33 * MS, "the first frame that can be seen"
    assert bench.sync.health.repeated["front"] == sum(bench.column(keys.REPEATED)) == 1


def test_images_of_another_size_never_begin_an_episode() -> None:
    bench = Bench().start().run(0.5, image=lambda number: np.zeros((4, 2, 3), dtype=np.uint8))
    assert bench.rows == []
    assert bench.sync.reason(bench.now_ns) == (
        "camera front: what is recorded has shape (2, 2, 3) and type uint8, got (4, 2, 3) uint8"
    )


def test_only_what_rows_show_is_decoded_and_little_is_kept() -> None:
    decoded: list[int] = []
    frames: WeakSet[Any] = WeakSet()

    class Given:
        """A frame as it came, which may be looked for in memory."""

        def __init__(self, number: int) -> None:
            self.image = picture(number)
            frames.add(self)

    def decode(given: Given) -> Image:
        decoded.append(number_of(given.image))
        return given.image

    bench = Bench(decode=decode, fps=5).run(3.0, image=Given)
    assert decoded == []
    assert len(frames) <= 17, "half a second, until an episode begins"
    bench.start().run(3.0, image=Given)
    assert decoded == [number_of(row.images["front"]) for row in bench.rows]
    assert len(frames) <= 17, "what no row will show is forgotten"


def test_what_is_done_and_what_is_asked_for_are_labels() -> None:
    asked = Target(0, (*JOINTS, "gripper"), np.append(HOME + 0.2, 0.01))
    for source, expected in ((ActionSource.SENT, [*HOME, 0.05]), (ActionSource.REQUESTED, [*(HOME + 0.2), 0.01])):
        bench = Bench(action=source).start()
        for _ in range(30):
            bench.sync.add_command(command(bench.now_ns, requested=asked))
            bench.sync.add_status(bench.now_ns, Mode.TELEOP, SafetyState.RUNNING, 3)
            bench.sync.add_chunk(bench.now_ns - 80 * MS, bench.now_ns)
            bench.run(0.01)
        for row in bench.rows:
            np.testing.assert_array_equal(row.values[keys.ACTION], expected)
            assert row.values[keys.IS_REQUESTED] == [1.0]
            assert row.values[keys.MODE] == [MODES.index("teleop")]
            assert row.values[keys.SAFETY] == [SAFETY_STATES.index("running")]
            assert row.values[keys.LATENCY] == pytest.approx([0.08])
        assert len(bench.rows) > 5


@pytest.mark.parametrize(
    ("mode", "safety", "heard_s", "is_kept"),
    [
        (Mode.POLICY, SafetyState.RUNNING, 2.0, True),
        (Mode.POLICY, SafetyState.RUNNING, 0.0, False),  # its topic has another name, say
        (Mode.TELEOP, SafetyState.RUNNING, 1.0, False),
        (Mode.HOLD, SafetyState.RUNNING, 0.0, True),
        (Mode.POLICY, SafetyState.HOLDING, 1.0, True),
    ],
)
def test_actions_that_nobody_heard_of_are_no_labels(
    mode: Mode, safety: SafetyState, heard_s: float, is_kept: bool
) -> None:
    bench = Bench().start()
    for tick in range(200):
        if tick < 100 * heard_s:
            bench.sync.add_command(command(bench.now_ns))
        bench.sync.add_status(bench.now_ns, mode, safety, 0)
        bench.run(0.01)
    assert bench.sync.health.rejected.startswith("the arm is led, but nothing comes of what is sent") is not is_kept
    assert is_kept == (bench.sync.health.rejected == "")


def test_a_pause_leaves_out_and_the_grid_begins_anew() -> None:
    bench = Bench().start().run(0.5)
    paused_ns = bench.now_ns
    bench.sync.pause(paused_ns)
    assert bench.sync.is_settling
    bench.run(0.4)
    assert not bench.sync.is_settling
    resumed_ns = bench.now_ns
    bench.sync.resume(resumed_ns)
    bench.run(0.5)
    before = [row.instant_ns for row in bench.rows if row.instant_ns <= resumed_ns]
    after = [row.instant_ns for row in bench.rows if row.instant_ns > resumed_ns]
    assert paused_ns - 34 * MS < before[-1] <= paused_ns, "rows up to the pause, though they settled after it"
    assert resumed_ns <= after[0] < resumed_ns + 34 * MS
    assert (after[0] - START_NS) % (33 * MS) == 0, "on a frame"
    assert after == [after[0] + round(row * 1e9 / 30) for row in range(len(after))]
    assert bench.sync.health.repeated_rows == 0
    stamps = bench.column(keys.STAMP)
    assert stamps[len(before)] == pytest.approx((after[0] - before[0]) * 1e-9, abs=1e-9), (
        "of the episode's first instant"
    )


def test_a_pause_may_end_before_its_rows_have_settled() -> None:
    bench = Bench().start().run(0.5)
    bench.sync.pause(bench.now_ns)
    bench.sync.resume(bench.now_ns)
    bench.sync.resume(bench.now_ns)
    bench.run(0.5).stop()
    instants = [row.instant_ns for row in bench.rows]
    assert instants == sorted(set(instants))
    assert max(np.diff(instants)) <= 66 * MS
    with pytest.raises(RuntimeError, match="no episode is being recorded, so none can go on"):
        bench.sync.resume(bench.now_ns)


def test_stop_gives_what_is_settled_and_no_more() -> None:
    bench = Bench().start().run(0.5)
    before = len(bench.rows)
    bench.stop()
    assert len(bench.rows) == before, "what comes later might be nearer"
    assert bench.now_ns - bench.rows[-1].instant_ns <= 100 * MS
    bench.run(0.3)
    assert len(bench.rows) == before


def test_a_clock_that_jumps_back_rejects_the_episode() -> None:
    bench = Bench().start().run(0.5)
    before = len(bench.rows)
    bench.now_ns -= 400 * MS
    bench.run(1.0)
    assert len(bench.rows) == before
    assert bench.sync.health.rejected == "the clock jumped back by 0.4 s"
    bench.start().run(0.5)
    assert bench.sync.health.rejected == ""
    assert len(bench.rows) > before + 10, "the next episode is as good as any"


def test_a_clock_that_jumps_ahead_rejects_the_episode_and_floods_nobody() -> None:
    bench = Bench().start().run(0.5)
    bench.now_ns += 3600 * 1000 * MS
    bench.run(0.2)
    assert bench.sync.health.rejected == "nothing came for 3600.0 s, or the clock jumped ahead"
    assert len(bench.rows) < 20


def test_one_camera_whose_clock_jumps_back_rejects_the_episode() -> None:
    bench = Bench().start().run(0.5)
    for _ in range(20):
        bench.run(0.033, image=None)
        bench.sync.add_image("front", bench.now_ns - 5000 * MS, bench.now_ns, picture(1))
    bench.run(0.4)
    assert bench.sync.health.rejected == "front: its clock jumped back"


def test_a_camera_that_hangs_while_the_robot_moves_rejects_the_episode() -> None:
    def hangs(number: int) -> Image:
        return picture(3)

    bench = Bench().start().run(3.0, image=hangs)
    assert bench.sync.health.rejected == "", "nothing moves"
    bench = Bench().start().run(3.0, image=hangs, moving=True)
    assert bench.sync.health.rejected.startswith("camera front: frozen, the same picture for ")
    bench = Bench(cameras={"front": CameraTiming(frozen_after_ms=0.0)}).start().run(3.0, image=hangs, moving=True)
    assert bench.sync.health.rejected == "", "never, by configuration"


def test_features_of_others_are_refused() -> None:
    features = of_robot(PANDA, {"front": SIZE}, 30)
    with pytest.raises(ValueError, match=r"features are of the cameras \['front'\], got \['wrist'\]"):
        RowAssembler(PANDA, features, {"wrist": CameraTiming()}, RecordingConfig())
    with pytest.raises(ValueError, match="features are of 30 rows a second, the recording of 10"):
        RowAssembler(PANDA, features, {"front": CameraTiming()}, RecordingConfig(fps=10))


def test_a_frame_that_was_overtaken_is_waited_for_a_moment() -> None:
    sync = assembler(fps=10)
    sync.start(START_NS)

    def settle(after_ms: int) -> list[Row]:
        return sync.rows(START_NS + after_ms * MS)

    for after_ms in range(0, 120, 10):
        now_ns = START_NS + after_ms * MS
        sync.add_joints(now_ns, now_ns, HOME)
        sync.add_gripper(now_ns, now_ns, 0.04)
        if after_ms in (0, 40, 80, 110):  # of these none is as near the instant at 100 ms as the one that comes late
            sync.add_image("front", now_ns, now_ns, picture(after_ms))
    assert [number_of(row.images["front"]) for row in settle(125)] == [0]
    sync.add_image("front", START_NS + 99 * MS, START_NS + 126 * MS, picture(99))
    assert [number_of(row.images["front"]) for row in settle(130)] == [99]


def test_the_next_command_of_who_is_sending_is_waited_for() -> None:
    bench = Bench().run(0.2)
    bench.sync.add_command(command(bench.now_ns, HOME))
    bench.start().run(0.15)
    assert len(bench.rows) == 0, "another command may be on its way"
    bench.sync.add_command(command(bench.now_ns - 100 * MS, HOME + 0.1))
    bench.sync.add_command(command(bench.now_ns, HOME + 0.2))
    bench.run(0.4)
    first = next(index for index, row in enumerate(bench.rows) if row.values[keys.ACTION][0] != HOME[0])
    assert bench.rows[first - 1].instant_ns < START_NS + 250 * MS <= bench.rows[first].instant_ns
    assert bench.sync.health.repeated_rows == 0
