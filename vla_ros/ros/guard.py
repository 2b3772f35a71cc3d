"""Nodes that no message from outside can end: messages are bounded, callbacks that fail are counted and reported."""

from __future__ import annotations

import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.qos import qos_profile_parameters
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from vla_ros import topics
from vla_ros.messages import shortened

#: The largest message that is taken [bytes]: of most topics; of a text of 1000 characters; of a chunk of 1000 rows and
#: what a node says of all its streams. Images are for those who take them.
_MOST_BYTES, _TEXT_BYTES = 16_384, 4_096
_OTHERWISE: dict[str, int] = {
    topics.INSTRUCTION: _TEXT_BYTES,
    topics.RECORDER_CONTROL: _TEXT_BYTES,
    topics.RECORDER_NOTES: _TEXT_BYTES,
    topics.CHUNK: 262_144,
    topics.STATE: 65_536,
}
_IMAGES = (Image, CompressedImage)
#: A service keeps as many requests as those of parameters do; what DDS drops beyond that is never answered.
_REQUESTS = qos_profile_parameters
#: A failure is a problem of the node for so long, and one endpoint has a line in the log as often.
_RECENT_S, _LOG_S = 2.0, 1.0
#: So many spins in a row that fail are an executor that does not work any more.
_MOST_FAILED_SPINS = 100


class Failed(RuntimeError):
    """Raised by a callback that ends its node, with one line to the terminal and the exit code 1."""


class Guard:
    """What went wrong at the border of one node, by endpoint: messages that were refused, callbacks that failed."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.on_failure: Callable[[str], None] = lambda why: None
        self.end = ""  # why the node has to end; "" while it has not
        self._last = ""  # the failure
        self._failed_s = self._logged_s = -float("inf")
        self._log_s: dict[str, float] = {}
        self._failed_spins = 0

    @property
    def problem(self) -> str:
        """What failed lately; "" when nothing did."""
        return self._last if time.monotonic() - self._failed_s < _RECENT_S else ""

    @property
    def values(self) -> dict[str, int]:
        """For diagnostics: what was refused and what failed, each by endpoint; empty when all was well."""
        return {f"refused.{name}": count for name, count in self.refused.copy().items()} | {
            f"failed.{name}": count for name, count in self.failed.copy().items()
        }

    def refuse(self, endpoint: str, why: object) -> None:
        """A message was not taken."""
        self.refused[endpoint] += 1
        self._log(endpoint, f"{endpoint}: message refused: {why} ({self.refused[endpoint]} so far)")

    def fail(self, endpoint: str, error: Exception) -> None:
        """A callback raised what nothing foresaw: it may have left its work half done, so its node is told."""
        self.failed[endpoint] += 1
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
        self._last = shortened(f"callback failed on {endpoint}: {type(error).__name__}: {error} ({place})")
        self._failed_s = time.monotonic()
        self._log(endpoint, f"{self._last} ({self.failed[endpoint]} so far)")
        self.on_failure(self._last)

    def call(self, endpoint: str, callback: Callable[..., Any], *arguments: Any) -> Any:
        """What `callback` gives, or None where it fails."""
        try:
            return callback(*arguments)
        except Failed as failed:
            self.end = str(failed)
        except Exception as error:
            # rclpy's own callbacks raise this for a negative time, or for a parameter of no type, and do nothing then.
            if isinstance(error, ValueError) and getattr(callback, "__module__", "").startswith("rclpy."):
                self.refuse(endpoint, error)
            else:
                self.fail(endpoint, error)
        return None

    def spin(self, executor: Executor, timeout_s: float) -> None:
        """One spin, which contains what a callback that was never wrapped raises: of an action, or of a future."""
        try:
            executor.spin_once(timeout_sec=timeout_s)
            self._failed_spins = 0
        except Exception as error:
            self.fail("the executor", error)
            self._failed_spins += 1
            if self._failed_spins >= _MOST_FAILED_SPINS:
                self.end = f"the executor failed {_MOST_FAILED_SPINS} times in a row; {self._last}"

    def _log(self, endpoint: str, line: str) -> None:
        now_s = time.monotonic()
        if now_s - self._log_s.get(endpoint, -_LOG_S) >= _LOG_S:
            self._log_s[endpoint] = now_s
            self._node.get_logger().error(shortened(line))


class GuardedNode(Node):
    """A node whose subscriptions, services and timers are guarded, those that rclpy makes for itself included."""

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Callable[[Any], None], *arguments: Any, **options: Any
    ) -> Any:
        """As rclpy's; what is too large or cannot be read never comes to `callback`."""
        guard = of(self)
        is_read_here = not options.get("raw") and msg_type not in _IMAGES
        options["raw"] = is_read_here or options.get("raw", False)

        def take(given: Any) -> None:
            if is_read_here:
                try:
                    given = read(msg_type, topic, given)
                except ValueError as error:
                    guard.refuse(topic, error)
                    return
            guard.call(topic, callback, given)

        return super().create_subscription(msg_type, topic, take, *arguments, **options)

    def create_service(
        self, srv_type: Any, srv_name: str, callback: Callable[[Any, Any], Any], *arguments: Any, **options: Any
    ) -> Any:
        """As rclpy's; a callback that fails is answered for, by `success` False where the response has that."""
        guard = of(self)

        def serve(request: Any, response: Any) -> Any:
            answer = guard.call(srv_name, callback, request, response)
            if answer is None:
                answer = type(response)()
                if hasattr(answer, "message"):
                    answer.message = guard.problem
            return answer

        return super().create_service(srv_type, srv_name, serve, *arguments, **{"qos_profile": _REQUESTS, **options})

    def create_timer(
        self, timer_period_sec: float, callback: Callable[[], None], *arguments: Any, **options: Any
    ) -> Any:
        """As rclpy's."""
        guard = of(self)
        function = callback.func if isinstance(callback, functools.partial) else callback
        name = getattr(function, "__qualname__", repr(function))
        return super().create_timer(
            timer_period_sec, lambda: guard.call(f"the timer of {name}", callback), *arguments, **options
        )


def of(node: Any) -> Guard:
    """The guard of `node`; one of another kind has one, too, for what is polled."""
    if not hasattr(node, "_guard"):
        node._guard = Guard(node)
    guard: Guard = node._guard
    return guard


def read(message_type: Any, topic: str, data: bytes) -> Any:
    """The message in `data`; raises ValueError for more bytes than that topic may bring, and for what is no message."""
    if message_type not in _IMAGES:
        refuse_large(topic, data)
    try:
        return deserialize_message(data, message_type)
    except Exception as error:  # of the middleware's own kinds
        raise ValueError(f"not a valid {message_type.__name__}: {error}") from None


def refuse_large(topic: str, data: bytes) -> None:
    """Raise ValueError for more bytes than that topic may bring."""
    most = _OTHERWISE.get(topic, _MOST_BYTES)
    if len(data) > most:
        raise ValueError(f"it has {len(data)} bytes, and at most {most} are accepted")
