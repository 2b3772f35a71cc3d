"""What is measured before a robot is trusted: how late its cameras, its joints and its gripper are; no ROS."""
