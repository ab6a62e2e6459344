"""A checkpoint once it is open, whatever wrote it: its tensors, and what it says of itself."""
