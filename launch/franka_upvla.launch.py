"""A Franka Panda on a table, in simulation or real: `ros2 launch vla_ros franka_upvla.launch.py --show-args`."""

from launch import LaunchDescription
from vla_ros.ros import launching


def generate_launch_description() -> LaunchDescription:
    return launching.describe("franka_upvla")
