"""Runs a program of timm with our models: its options, and what is put in place of names of timm."""
