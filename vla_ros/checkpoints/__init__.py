"""Weights in files: published ones under our names and back, and our own folders."""
