"""One file per model, in plain PyTorch: numbers in, numbers out, no files."""
