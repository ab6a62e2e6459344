"""Progressive learning of EfficientNetV2: image size, augmentation and dropout that grow together, stage by stage."""
