"""The checkpoints that Google published: their table, and how they are fetched."""
