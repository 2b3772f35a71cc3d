"""Observations in, action chunks and predicted frames out: every policy behind one protocol."""
