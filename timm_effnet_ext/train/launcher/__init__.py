"""Runs a program of timm with our models, watches its classes, and writes what its epochs cost."""
