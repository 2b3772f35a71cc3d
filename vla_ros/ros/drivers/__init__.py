"""Robots' drivers, each from both sides: ours, and the simulated robot that answers in the driver's place."""
