"""Unified vision-language-action models on real arms, through ROS 2."""
