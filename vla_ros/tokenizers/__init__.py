"""Pixels and text into tokens or features and back; one file each."""
