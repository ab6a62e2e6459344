def identify_state(shapes): return []
