"""What a model sees in photos."""
