"""TensorFlow checkpoints: tensor bundles and SavedModels, read without TensorFlow."""
