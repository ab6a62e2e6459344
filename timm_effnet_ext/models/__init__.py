"""The networks as timm knows them, and how they train and run fast."""
