"""Tasks: examples in named splits, the template of a row, and what is read out of the model."""
