"""The topics and services of this system, named once; types are standard messages only."""

from __future__ import annotations

NAMESPACE = "/vla"
#: What ROS calls the node of a publisher that it does not know: not yet, or because it speaks DDS without ROS.
NAMELESS = frozenset({"_NODE_NAME_UNKNOWN_", "_CREATED_BY_BARE_DDS_APP_"})

CHUNK = f"{NAMESPACE}/chunk"
COMMAND = f"{NAMESPACE}/command"
REQUESTED = f"{NAMESPACE}/requested"
INSTRUCTION = f"{NAMESPACE}/instruction"
ASK = f"{NAMESPACE}/ask"
TELEOP = f"{NAMESPACE}/teleop"
DEADMAN = f"{NAMESPACE}/deadman"
STATE = f"{NAMESPACE}/state"
DIAGNOSTICS = "/diagnostics"

START = f"{NAMESPACE}/start"
STOP = f"{NAMESPACE}/stop"
HOLD = f"{NAMESPACE}/hold"
RESUME = f"{NAMESPACE}/resume"
ESTOP = f"{NAMESPACE}/estop"
HOME_GRIPPER = f"{NAMESPACE}/gripper/home"

#: What may be said to the recorder: each a service, and a word on RECORDER_CONTROL.
RECORDER_WORDS = ("start", "save", "save_anyway", "discard", "rerecord", "pause", "resume", "success", "failure")
RECORDER_CONTROL = f"{NAMESPACE}/recorder/control"
RECORDER_NOTES = f"{NAMESPACE}/recorder/notes"

SIMULATION_STATE = f"{NAMESPACE}/simulation/state"
SIMULATION_RESET = f"{NAMESPACE}/simulation/reset"


def prediction(camera: str) -> str:
    """Where predicted frames of `camera` go."""
    return f"{NAMESPACE}/prediction/{camera}/compressed"


def recorder(word: str) -> str:
    """The service for one of RECORDER_WORDS."""
    return f"{NAMESPACE}/recorder/{word}"


#: name -> (type, what it carries); the README's table and the graph read it.
TABLE: dict[str, tuple[str, str]] = {
    CHUNK: ("trajectory_msgs/msg/JointTrajectory", "absolute targets; header.stamp = the observation's instant"),
    COMMAND: ("trajectory_msgs/msg/JointTrajectory", "one point: what was sent to the driver, after every limit"),
    REQUESTED: (
        "trajectory_msgs/msg/JointTrajectory",
        "one point: the target requested at that tick, before every limit",
    ),
    INSTRUCTION: ("std_msgs/msg/String", "the task in words; transient local"),
    # Of the standard services the only one with a text in and a text out.
    ASK: ("diagnostic_msgs/srv/AddDiagnostics", "a question about the scene in load_namespace; message: the answer"),
    TELEOP: (
        "trajectory_msgs/msg/JointTrajectory",
        "one point: the teleoperator's current target, absolute as in a chunk",
    ),
    DEADMAN: (
        "std_msgs/msg/Bool",
        "true while the dead-man switch is held; to be repeated within `watchdog.max_deadman_age_ms` (250)",
    ),
    STATE: ("diagnostic_msgs/msg/DiagnosticArray", "mode, safety state and its reason, counters; 10 Hz and on change"),
    DIAGNOSTICS: ("diagnostic_msgs/msg/DiagnosticArray", "rates, ages, skew and drops of every stream"),
    prediction("<camera>"): ("sensor_msgs/msg/CompressedImage", "a predicted frame; stamped with the time it predicts"),
    START: ("std_srvs/srv/Trigger", "drop what is scheduled and follow the policy from now on"),
    STOP: ("std_srvs/srv/Trigger", "drop what is scheduled and hold"),
    HOLD: ("std_srvs/srv/Trigger", "ramp to a hold, keep the mode"),
    RESUME: ("std_srvs/srv/Trigger", "leave a hold, an emergency stop, or a reflex: the driver recovers first"),
    ESTOP: ("std_srvs/srv/Trigger", "brake at once; only resume ends it"),
    HOME_GRIPPER: (
        "std_srvs/srv/Trigger",
        "home the gripper, so that it finds its range; once after power-up; the arm must hold",
    ),
    recorder("start"): ("std_srvs/srv/Trigger", "begin an episode; answers with its task, or why not"),
    recorder("save"): ("std_srvs/srv/Trigger", "end the episode and keep it, if it is within the health limits"),
    recorder("save_anyway"): ("std_srvs/srv/Trigger", "end the episode and keep it as it is"),
    recorder("discard"): ("std_srvs/srv/Trigger", "end the episode and discard it"),
    recorder("rerecord"): (
        "std_srvs/srv/Trigger",
        "discard the open episode, or else replace the one saved last; begin again",
    ),
    recorder("pause"): ("std_srvs/srv/Trigger", "record nothing until resume"),
    recorder("resume"): ("std_srvs/srv/Trigger", "continue a paused episode"),
    recorder("success"): ("std_srvs/srv/Trigger", "mark the episode as a success"),
    recorder("failure"): ("std_srvs/srv/Trigger", "mark the episode as a failure"),
    RECORDER_CONTROL: (
        "std_msgs/msg/String",
        "the names of these services as text, for pedals and teleoperation devices; also `seed N`",
    ),
    RECORDER_NOTES: ("std_msgs/msg/String", "a line for the episode's details"),
    SIMULATION_STATE: ("std_msgs/msg/Float64MultiArray", "simulation only: the world's state, for the scripted policy"),
    SIMULATION_RESET: (
        "std_srvs/srv/Trigger",
        "simulation only: the next seeded episode; answers with its instruction",
    ),
}
