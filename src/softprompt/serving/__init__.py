"""Many prompts over one resident backbone: requests share its passes, whatever prompt each belongs to."""
