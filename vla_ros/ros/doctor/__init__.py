"""Probes of ROS for the doctor: the installation, a transport self-test, the running graph."""
