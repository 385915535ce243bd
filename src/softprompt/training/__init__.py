"""Fitting prompts to a frozen backbone."""
