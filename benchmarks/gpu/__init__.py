"""What a GPU is tried and measured with: lean training's laws, memory, times."""
