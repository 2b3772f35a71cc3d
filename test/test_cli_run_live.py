"""An open-ended run in plain words: what changed, successes, what to type next, and a summary."""

from __future__ import annotations

from vla_ros.cli.run_live import Story

SECOND_NS = 10**9


def controller(state: str, reason: str = "", mode: str = "policy") -> dict[str, str]:
    message = f"{state}: {reason}" if reason else state
    return {"safety_state": state, "reason": reason, "mode": mode, "message": message}


def inference(message: str, instruction: str = "lift the red cube") -> dict[str, str]:
    return {"message": message, "instruction": instruction}


def see(story: Story, node: str, state: dict[str, str], now_s: float) -> list[str]:
    """A state that lasts."""
    return [line for tenth in range(8) for line in story.see(node, state, now_s + tenth / 10)]


def test_a_run_in_simulation_is_told_from_its_start_to_its_summary() -> None:
    story = Story("franka_upvla", "up_vla", 100.0)
    assert story.see("inference", inference("waiting: no time on /clock yet"), 101.0) == []
    assert story.see("controller", controller("holding", "waits for the first chunk"), 102.0) == [], "still starting"
    assert story.see_world(3 * SECOND_NS, False) == []
    assert see(story, "controller", controller("running"), 103.0) == ["the arm moves: lift the red cube"]
    assert see(story, "controller", controller("running"), 104.0) == [], "no change"
    story.see("simulator", {"message": "running", "resets": "0", "task": "lift the red cube"}, 103.2)
    success, *ways = story.see_world(9 * SECOND_NS, True)
    assert success == "success: lift the red cube, 6.0 s (simulated) after the arm was started"
    assert any('vla-ros ask "where is the red cube?"' in line for line in ways)
    assert any("vla-ros doctor franka_upvla" in line for line in ways)
    assert story.see_world(10 * SECOND_NS, True) == [], "once"
    for tenth in range(300):  # a fault that comes and goes ten times a second
        state = controller("holding", "stale chunk") if tenth % 2 else controller("running")
        assert story.see("controller", state, 110.0 + tenth / 10) == [], "no flood"
    assert see(story, "controller", controller("ramping", "stale chunk"), 150.0) == []
    assert see(story, "controller", controller("holding", "stale chunk"), 151.0) == ["the arm holds: stale chunk"]
    assert see(story, "controller", controller("running"), 153.0) == ["the arm moves: lift the red cube"]
    told = see(story, "controller", controller("stopped", "emergency stop"), 155.0)
    assert told[0] == "the arm is stopped: emergency stop"
    assert "/vla/resume" in told[1]
    assert story.summary(160.0) == [
        "stopped after 60 s", "successes: 1, after 6.0 s", "held 151 x: stale chunk", "held 1 x: emergency stop",
    ]  # fmt: skip


def test_an_arm_that_waits_for_its_start_says_how() -> None:
    story = Story("real", "up_vla", 0.0)
    told = see(story, "controller", controller("holding", "not started", "hold"), 1.0)
    assert told[0] == "the arm holds: not started"
    assert any("/vla/instruction" in line for line in told) and any("/vla/start" in line for line in told)
    assert story.summary(5.0) == ["stopped after 5 s"], "nobody knows of a real arm's success"


def test_what_the_policy_refuses_and_a_reset_are_told() -> None:
    story = Story("s", "up_vla", 0.0)
    assert see(story, "inference", inference("refusing: instruction 'sing'"), 1.0) == [
        "policy up_vla: refusing: instruction 'sing'"
    ]
    assert story.see("inference", inference("inferring", "lift the blue cube"), 2.0) == [
        "instruction: lift the blue cube"
    ]
    story.see("simulator", {"message": "running", "resets": "0", "task": "lift the red cube"}, 3.0)
    assert story.see("simulator", {"message": "running", "resets": "1", "task": "lift the red cube"}, 4.0) == [
        "the world was reset: lift the red cube"
    ]
    assert see(story, "inference", inference("blind: camera front: silent", "lift the blue cube"), 30.0) == [
        "policy up_vla: blind: camera front: silent"
    ]
