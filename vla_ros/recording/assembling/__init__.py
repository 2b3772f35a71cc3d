"""WHAT COMES IN → ROWS: streams through the aligner, commands held, on a grid of time."""
