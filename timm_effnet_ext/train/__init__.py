"""Training with timm's own train.py: launched as it is, with recipes, and pictures of its runs."""
