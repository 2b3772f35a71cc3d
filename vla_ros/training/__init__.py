"""Datasets into weights: samples, batches, objectives, the trainer."""
