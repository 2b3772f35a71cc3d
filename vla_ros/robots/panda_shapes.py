"""The body of the Panda in rods and boxes of our own: quick to draw and to collide, and still a Panda to the eye.

And its hull: capsules around these shapes, few enough that distances between all of them are known at every tick.
"""

from __future__ import annotations

from vla_ros.robots.robot import Box, Finish, Hull, Rod, Shape

_GREY, _BLACK = Finish.GREY, Finish.BLACK

#: The housing of joints 1 to 4, of joints 5 and 6.
_SHOULDER_M, _WRIST_M = 0.058, 0.050

#: Inner face at y = 0, so that both pads touch at width 0; the middle of the pad is the TCP, 0.045 above the joint.
_FINGER: tuple[Shape, ...] = (
    Box((0.0, 0.0145, 0.011), (0.021, 0.015, 0.022), _GREY),
    Box((0.0, 0.0115, 0.030), (0.016, 0.011, 0.026), _GREY),
    Box((0.0, 0.0065, 0.0445), (0.018, 0.013, 0.0185), _BLACK),
)

SHAPES: dict[str, tuple[Shape, ...]] = {
    "panda_link0": (
        Box((-0.055, 0.0, 0.03), (0.16, 0.16, 0.06)),
        Rod((0.0, 0.0, 0.0), (0.0, 0.0, 0.06), 0.08, rounded=False),
        Rod((-0.03, 0.0, 0.07), (0.0, 0.0, 0.07), 0.065),
        Rod((0.0, 0.0, 0.06), (0.0, 0.0, 0.140), 0.062, rounded=False),
    ),
    "panda_link1": (
        Rod((0.0, 0.0, -0.192), (0.0, 0.0, -0.178), 0.061, rounded=False, finish=_GREY),
        Rod((0.0, 0.0, -0.178), (0.0, 0.0, -0.11), 0.060, rounded=False),
        Rod((0.0, 0.0, -0.11), (0.0, -0.03, 0.0), _SHOULDER_M),
        Rod((0.0, -0.068, 0.0), (0.0, 0.0, 0.0), _SHOULDER_M, rounded=False),
    ),
    "panda_link2": (
        Rod((0.0, 0.0, 0.0), (0.0, 0.0, 0.068), _SHOULDER_M, rounded=False),
        Rod((0.0, 0.0, 0.068), (0.0, 0.0, 0.074), 0.050, rounded=False, finish=_GREY),
        Rod((0.0, 0.0, 0.03), (0.0, -0.11, 0.0), _SHOULDER_M),
        Rod((0.0, -0.11, 0.0), (0.0, -0.186, 0.0), 0.060, rounded=False),
    ),
    "panda_link3": (
        Rod((0.0, 0.0, -0.130), (0.0, 0.0, -0.116), 0.061, rounded=False, finish=_GREY),
        Rod((0.0, 0.0, -0.116), (0.0, 0.0, -0.06), 0.058, rounded=False),
        Rod((0.0, 0.0, -0.06), (0.0825, 0.025, 0.0), 0.052),
        Rod((0.0825, 0.0, 0.0), (0.0825, 0.062, 0.0), 0.053, rounded=False),
    ),
    "panda_link4": (
        Rod((0.0, 0.0, 0.0), (0.0, 0.0, 0.062), 0.053, rounded=False),
        Rod((0.0, 0.0, 0.062), (0.0, 0.0, 0.068), 0.044, rounded=False, finish=_GREY),
        Rod((0.0, 0.0, 0.025), (-0.0825, 0.075, 0.0), 0.051),
        Rod((-0.0825, 0.075, 0.0), (-0.0825, 0.118, 0.0), 0.056, rounded=False),
    ),
    "panda_link5": (
        Rod((0.0, 0.0, -0.266), (0.0, 0.0, -0.252), 0.057, rounded=False, finish=_GREY),
        Rod((0.0, 0.0, -0.252), (0.0, 0.0, -0.20), 0.056, rounded=False),
        Rod((0.0, 0.0, -0.20), (0.0, 0.055, -0.12), 0.050),
        Rod((0.0, 0.055, -0.12), (0.0, 0.045, 0.0), 0.040),
        Rod((0.0, 0.028, 0.0), (0.0, 0.088, 0.0), _WRIST_M, rounded=False),
        Rod((0.0, 0.088, 0.0), (0.0, 0.094, 0.0), 0.042, rounded=False, finish=_GREY),
    ),
    "panda_link6": (
        Rod((0.0, 0.0, -0.026), (0.0, 0.0, 0.055), _WRIST_M, rounded=False),
        Rod((0.0, 0.0, 0.055), (0.0, 0.0, 0.061), 0.042, rounded=False, finish=_GREY),
        Rod((0.0, 0.0, 0.0), (0.088, 0.0, 0.0), 0.048),
        Rod((0.088, -0.045, 0.0), (0.088, 0.055, 0.0), 0.050, rounded=False),
    ),
    "panda_link7": (
        Rod((0.0, 0.0, 0.045), (0.0, 0.0, 0.085), 0.046, rounded=False),
        Rod((0.0, 0.0, 0.085), (0.0, 0.0, 0.107), 0.044, rounded=False, finish=_GREY),
        Rod((0.0, 0.0, 0.065), (0.035, 0.035, 0.065), 0.022),
    ),
    "panda_hand": (
        Rod((0.0, -0.075, 0.025), (0.0, 0.075, 0.025), 0.029),
        Box((0.0, 0.0, 0.034), (0.044, 0.200, 0.040)),
        Box((0.0, 0.0, 0.0575), (0.036, 0.196, 0.011), _GREY),
    ),
    "panda_leftfinger": _FINGER,
    "panda_rightfinger": _FINGER,
}

#: What the hand and its fingers are: one body to everything else.
_HAND = ("panda_hand", "panda_leftfinger", "panda_rightfinger")
_FOREARM = ("panda_link5", "panda_link6", "panda_link7", *_HAND)

#: Links that can come near each other. The others cannot: neighbours around one joint; those with a joint's housing
#: between them that is longer than their reach (0-2, 0-3, 0-4, 1-3, 1-4, 2-4, 3-5, 3-6, 3-7, 4-6, 4-7, 6-hand), found
#: by trying poses; and 5-7, whose hulls overlap where the vendor's bodies pass each other.
_SELF_PAIRS = (
    *((link, far) for link in ("panda_link0", "panda_link1", "panda_link2") for far in _FOREARM),
    *((link, far) for link in ("panda_link3", "panda_link4", "panda_link5") for far in _HAND),
)

#: Around a finger however far it is open.
_FINGER_HULL = (Rod((0.0, 0.007, 0.027), (0.0, 0.055, 0.027), 0.030),)

HULL = Hull(
    capsules={
        "panda_link0": (
            Rod((-0.107, 0.0, 0.03), (0.0, 0.0, 0.03), 0.090),
            Rod((-0.03, 0.0, 0.07), (0.0, 0.0, 0.07), 0.065),
            Rod((0.0, 0.0, 0.06), (0.0, 0.0, 0.14), 0.062),
        ),
        "panda_link1": (
            Rod((0.0, 0.0, -0.192), (0.0, 0.0, -0.11), 0.061),
            Rod((0.0, 0.0, -0.11), (0.0, -0.034, 0.0), 0.068),
        ),
        "panda_link2": (
            Rod((0.0, 0.0, 0.034), (0.0, -0.11, 0.0), 0.068),
            Rod((0.0, -0.11, 0.0), (0.0, -0.17, 0.0), 0.064),
        ),
        "panda_link3": (
            Rod((0.0, 0.0, -0.114), (0.0, 0.0, -0.06), 0.064),
            Rod((0.0, 0.0, -0.06), (0.0825, 0.031, 0.0), 0.062),
        ),
        "panda_link4": (
            Rod((0.0, 0.0, 0.031), (-0.0825, 0.075, 0.0), 0.062),
            Rod((-0.0825, 0.075, 0.0), (-0.0825, 0.105, 0.0), 0.058),
        ),
        "panda_link5": (
            Rod((0.0, 0.0, -0.254), (0.0, 0.0, -0.20), 0.0585),
            Rod((0.0, 0.0, -0.20), (0.0, 0.055, -0.12), 0.050),
            Rod((0.0, 0.055, -0.12), (0.0, 0.058, 0.0), 0.059),
        ),
        "panda_link6": (
            Rod((0.0, 0.0, -0.01), (0.0, 0.0, 0.04), 0.053),
            Rod((0.0, 0.0, 0.0), (0.088, 0.0, 0.0), 0.048),
            Rod((0.088, -0.03, 0.0), (0.088, 0.04, 0.0), 0.053),
        ),
        "panda_link7": (
            Rod((0.0, 0.0, 0.06), (0.0, 0.0, 0.095), 0.049),
            Rod((0.0, 0.0, 0.065), (0.035, 0.035, 0.065), 0.022),
        ),
        "panda_hand": (Rod((0.0, -0.083, 0.031), (0.0, 0.083, 0.031), 0.040),),
        "panda_leftfinger": _FINGER_HULL,
        "panda_rightfinger": _FINGER_HULL,
    },
    self_pairs=_SELF_PAIRS,
    # Links 0 and 1 come no nearer to anything; fingers reach for what lies on a table.
    above_planes=(*(f"panda_link{i}" for i in range(2, 8)), "panda_hand"),
)
