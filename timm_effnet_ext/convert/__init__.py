"""TensorFlow, Keras and foreign PyTorch checkpoints to safetensors, without TensorFlow."""
