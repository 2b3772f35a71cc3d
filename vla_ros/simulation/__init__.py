"""A world that answers like the robot, without ROS: the protocol, the tasks, and one file per world."""
