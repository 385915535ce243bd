"""Soft prompts: the values, their file, where they start and how they are trained."""
