"""The only room where backbone and prompt meet; training and serving score a row through the same code."""
