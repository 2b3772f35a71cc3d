"""How it moves: kinematics, limits, interpolation, watchdog, gripper latch, and the arm controller that joins them."""
