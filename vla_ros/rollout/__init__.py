"""A policy in a world, without ROS: the in-process loop and the reports it shares with the ROS runner."""
