"""A model of what a training step costs, which the claims on speed and traffic fit and check."""
