"""ROWS → FILES: the open episode, the step by which it belongs to the dataset, what a crash leaves."""
