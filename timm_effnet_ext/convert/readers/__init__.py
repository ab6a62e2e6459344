"""Files on disk to tensors and statements: a folder for each framework, and what is not read."""
