"""A comparison: its cells, each a method on a task in a process of its own, and the files that remember them."""
