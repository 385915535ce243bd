"""What every method costs for a model, from its blueprint alone."""
