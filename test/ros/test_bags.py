"""Where a bag goes: never over anything, and beside one that a killed node left."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from std_msgs.msg import String

from vla_ros.ros.bags import RawBag


def write(bag: RawBag) -> RawBag:
    bag.add_topic("/said", "std_msgs/msg/String")
    bag.write("/said", 1, serialize_message(String(data="hello")))
    return bag


def test_beside_bags_that_were_never_closed_and_not_over_them(tmp_path: Path) -> None:
    killed = [write(RawBag(tmp_path / "bag")) for _ in range(2)]
    assert [bag.path.name for bag in killed] == ["bag", "bag-2"]
    before = {file: file.read_bytes() for bag in killed for file in bag.path.iterdir()}
    last = write(RawBag(tmp_path / "bag"))
    assert last.path == tmp_path / "bag-3"
    last.close()
    assert {file: file.read_bytes() for file in before} == before
    with AnyReader([last.path]) as reader:
        assert [reader.deserialize(data, "std_msgs/msg/String").data for *_, data in reader.messages()] == ["hello"]
    for bag in killed:
        bag.close()


@pytest.mark.parametrize("kind", ["finished bag", "folder", "file"])
def test_what_is_no_unfinished_bag_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bag"
    if kind == "finished bag":
        write(RawBag(path)).close()
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
    with pytest.raises(ValueError, match="bag already exists and is not overwritten; give a new folder"):
        RawBag(path)
