"""Training with timm's own train.py: progressive learning from outside, recipes, and pictures of runs."""
