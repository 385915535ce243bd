"""How good a prompt is, in numbers with intervals, beside what costs nothing on the same rows."""
