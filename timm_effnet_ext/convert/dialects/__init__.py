"""How other frameworks and code bases name the layers of an EfficientNet, and what goes with the names."""
