"""What may reach a model: weights that are its own, or a refusal that says what to do."""
