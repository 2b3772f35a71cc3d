"""As much of ROS 2's `launch_ros` as our launch files use, for machines that have none."""
