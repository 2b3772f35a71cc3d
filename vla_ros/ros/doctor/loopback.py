"""Whether images survive the transport: one process sends 640x480 at 30 Hz, another counts; in a domain of their own.

Run as `python -m vla_ros.ros.doctor.loopback receive`, and `send` beside it; both end by themselves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from array import array
from collections.abc import Mapping
from statistics import median
from typing import Any

from vla_ros.doctor.findings import no_answer
from vla_ros.doctor.middleware import Loopback
from vla_ros.ros import transport
from vla_ros.timing.stamps import ns_to_ms

_WIDTH, _HEIGHT, _RATE_HZ, _COUNT = 640, 480, 30.0, 60
_TOPIC = "vla_ros_doctor"
_MATCH_TIMEOUT_S, _LAST_IMAGE_S = 8.0, 1.0
_TIMEOUT_S = 25.0
_END = "end"  # frame_id of the last image


def measure(base: Mapping[str, str]) -> Loopback:
    """Send and receive in two processes; takes about four seconds, `_TIMEOUT_S` at most."""
    try:
        with transport.locked_domain_id() as domain_id:
            environment = {**transport.environment(base), "ROS_DOMAIN_ID": str(domain_id)}
            return _run(environment)
    except subprocess.TimeoutExpired:
        return Loopback(problem=no_answer(_TIMEOUT_S))
    except (OSError, RuntimeError, ValueError) as error:
        return Loopback(problem=str(error).strip() or type(error).__name__)


def _run(environment: Mapping[str, str]) -> Loopback:
    ends = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, role],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role in ("receive", "send")
    ]
    deadline_s = time.monotonic() + _TIMEOUT_S
    try:
        told = []
        for end in ends:
            out, errors = end.communicate(timeout=max(0.1, deadline_s - time.monotonic()))
            if end.returncode:
                raise RuntimeError((errors.strip().splitlines() or [f"exit code {end.returncode}"])[-1])
            told.append(json.loads(out.splitlines()[-1]))
    finally:
        for end in ends:
            end.kill()
            end.communicate()
    received, sent = told
    if not sent["matched"]:
        return Loopback(problem=f"the two processes did not find each other in {_MATCH_TIMEOUT_S:g} s")
    return Loopback(sent["sent"], received["received"], received["median_ms"])


def main(role: str) -> None:
    """One end; prints what it has to tell as a line of JSON."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node(f"vla_ros_doctor_{role}", enable_rosout=False, start_parameter_services=False)
    if role == "send":
        publisher = node.create_publisher(Image, _TOPIC, qos_profile_sensor_data)
        told = _send(publisher, Image(height=_HEIGHT, width=_WIDTH, encoding="rgb8", step=3 * _WIDTH))
    else:
        hops_ms: list[float] = []
        last_s = [time.monotonic() + _MATCH_TIMEOUT_S + _LAST_IMAGE_S]

        def on_image(image: Image) -> None:
            sent_ns = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
            hops_ms.append(ns_to_ms(time.time_ns() - sent_ns))
            last_s[0] = 0.0 if image.header.frame_id == _END else time.monotonic() + _LAST_IMAGE_S

        node.create_subscription(Image, _TOPIC, on_image, qos_profile_sensor_data)
        while time.monotonic() < last_s[0]:
            rclpy.spin_once(node, timeout_sec=0.1)
        told = {"received": len(hops_ms), "median_ms": median(hops_ms) if hops_ms else None}
    print(json.dumps(told), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()


def _send(publisher: Any, image: Any) -> dict[str, object]:
    image.data = array("B", os.urandom(3 * _WIDTH * _HEIGHT))
    deadline_s = time.monotonic() + _MATCH_TIMEOUT_S
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline_s:
            return {"matched": False, "sent": 0}
        time.sleep(0.01)
    time.sleep(0.2)  # the other side has matched a moment later
    due_s = time.monotonic()
    for index in range(_COUNT):
        now_ns = time.time_ns()
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(now_ns, 10**9)
        image.header.frame_id = _END if index == _COUNT - 1 else ""
        publisher.publish(image)
        due_s += 1.0 / _RATE_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))
    time.sleep(_LAST_IMAGE_S / 2)  # what is in the segment goes with the process
    return {"matched": True, "sent": _COUNT}


if __name__ == "__main__":
    main(sys.argv[1])
