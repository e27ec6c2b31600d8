"""Searches over settings: random and grid search, successive halving and Hyperband, all in rungs of epochs."""
