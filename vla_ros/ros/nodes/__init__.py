"""The nodes: thin shells around the pure parts, one executable each."""
