"""Less memory and less time for the same numbers: lean training and folded inference."""
