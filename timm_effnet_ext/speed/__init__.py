"""Less memory and less time for the same numbers: lean training, folded inference, and the benchmark of both."""
