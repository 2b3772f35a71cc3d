"""How every node starts and ends: transport, rclpy, one single-threaded executor, signals, exit codes."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence

import rclpy
from rclpy.duration import Duration
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vla_ros.graph import EXIT_CONFIG
from vla_ros.ros import ending, guard, transport
from vla_ros.ros.hearing import Hearing

EXIT_FAILED = EXIT_DEAF = 1

#: A signal is noticed between two spins, so the process ends at most this long after it.
_SPIN_TIMEOUT_S = 0.2
#: An arm brakes in less than half a second.
_WIND_DOWN_S = 2.0
#: For nodes that the arm needs to brake, or that record how it does.
OUTLASTS_CONTROLLER_S = 3.0
#: How long each reliable topic's readers have to confirm what was said last.
_LAST_WORD_S = 0.1


def run(
    node_class: Callable[[], Node], arguments: Sequence[str] | None = None, wind_down_s: float = _WIND_DOWN_S
) -> int:
    """Run one node until it is asked to end (see `ending`); the exit code: 0, or 2 when it cannot be made so.

    1 when it took a dead one's place and hears nobody (see `hearing`), or cannot do its work any more (`guard.Failed`).

    A node with a method `wind_down() -> bool` is spun on until that says True: it brings to rest what it moves, or
    waits for the one that does. `wind_down_s` ends that as well; further signals do not.

    rclpy's own signal handlers would invalidate the context before the node could say goodbye, so ours only ask the
    loop to end. A multi-threaded executor is never used: it loses most messages of a fast topic.
    """
    ending.heed()
    os.environ.update(transport.environment(os.environ))  # read by the middleware in rclpy.init
    given = list(sys.argv if arguments is None else arguments)
    try:
        rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # an unknown argument after --ros-args, a parameter file that cannot be read
        print(f"error: {' '.join(given[1:])}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    try:
        node = _make(node_class)
        if node is None:
            gc.collect()  # or what is half made stays in the graph of nodes for a while
            return 0 if ending.asked() else EXIT_CONFIG
        hearing = Hearing(node) if transport.RESTARTED in os.environ else None
        executor = _executor()
        executor.add_node(node)
        gc.collect()
        gc.freeze()  # what is there now stays: no later collection has to walk over it, which takes a tick's time
        try:
            while not ending.asked():
                guard.of(node).spin(executor, _SPIN_TIMEOUT_S)
                if guard.of(node).end:
                    print(f"error: {guard.of(node).end}", file=sys.stderr)
                    return EXIT_FAILED
                if hearing and hearing.failure:
                    print(f"error: {hearing.failure}", file=sys.stderr)
                    return EXIT_DEAF
            _wind_down(node, executor, wind_down_s)
        finally:
            executor.shutdown(timeout_sec=0)
            node.destroy_node()
            gc.unfreeze()  # or the node outlives the modules it needs to go
        return 0
    finally:
        rclpy.try_shutdown()


def _make(node_class: Callable[[], Node]) -> Node | None:
    """The node; None where it was asked to end meanwhile, or cannot be made, which is said."""
    try:
        with ending.interrupting():
            return node_class()
    except ending.Asked:
        return None
    except (ValueError, RuntimeError, OSError) as error:  # a ConfigError; a machine or file that is not as needed
        if not ending.asked():
            print(f"error: {error}", file=sys.stderr)
        return None


def _executor() -> Executor:
    """The executor that reacts to events, where this release of rclpy has it: half the CPU time of the other."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:  # before Kilted
        return SingleThreadedExecutor()
    return EventsExecutor()


def _wind_down(node: Node, executor: Executor, within_s: float) -> None:
    wind_down: Callable[[], bool] = getattr(node, "wind_down", lambda: True)
    deadline_s = time.monotonic() + within_s
    while not wind_down() and time.monotonic() < deadline_s:
        guard.of(node).spin(executor, _SPIN_TIMEOUT_S)
    for publisher in node.publishers:  # the last word, such as the command to stand, must not go with the process
        publisher.wait_for_all_acked(Duration(seconds=_LAST_WORD_S))
