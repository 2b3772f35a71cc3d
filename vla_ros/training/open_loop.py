"""Judging a policy on a dataset: how far its actions are from the recorded ones, and its future frames from the seen."""

from __future__ import annotations
