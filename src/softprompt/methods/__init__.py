"""Methods: soft prompts and everything a user might pick instead, behind one interface."""
