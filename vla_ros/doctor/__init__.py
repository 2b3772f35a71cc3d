"""What keeps a machine or a running system from working: facts, and the judgement of them; knows no ROS."""
