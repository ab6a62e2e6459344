"""What a network is, without torch: rows of data, and all that follows from a row."""
