"""Other PyTorch implementations' files."""
