"""Search among settings: random and grid search, successive halving and Hyperband, over rungs of epochs."""
