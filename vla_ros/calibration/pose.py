"""A pose as a configuration writes it: x y z in metres and a unit quaternion qx qy qz qw, seven numbers in a list."""

from __future__ import annotations

from math import hypot
from typing import Annotated

from pydantic import AfterValidator

Seven = tuple[float, float, float, float, float, float, float]


def _has_a_rotation(pose: Seven) -> Seven:
    if abs(hypot(*pose[3:]) - 1.0) > 1e-3:
        raise ValueError(
            f"no pose (given {', '.join(f'{value:g}' for value in pose)}); should be x y z qx qy qz qw, of which the "
            "last four are a unit quaternion"
        )
    return pose


Pose = Annotated[Seven, AfterValidator(_has_a_rotation)]
