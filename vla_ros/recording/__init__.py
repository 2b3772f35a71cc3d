"""WHAT IS KEPT: episodes as LeRobot datasets, row for row; written, checked, repaired, converted, read."""
