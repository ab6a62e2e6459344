"""The names of the classes that a program trains on or is judged by."""
