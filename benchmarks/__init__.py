"""The benchmark: training, inference, creation and import of our models, timed beside timm, torchvision and others."""
