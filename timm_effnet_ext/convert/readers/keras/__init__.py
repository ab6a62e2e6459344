"""Keras files of every version, read without Keras, and their layer graphs."""
