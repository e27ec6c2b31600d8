"""A model of the cost of a training step, which the claims on speed and traffic fit and check."""
