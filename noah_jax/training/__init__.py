"""Training and testing of one network in one run."""
