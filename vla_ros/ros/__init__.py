"""The only package that imports ROS: nodes, drivers, conversion, launching, supervising."""
