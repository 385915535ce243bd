"""What trains: modules that fold into the plain tensors that are kept."""
