"""A classifier in one file for other engines: ONNX, in int8 too, and PyTorch's exported program."""
