"""The choice of where a network is cut, from the costs of its parts."""
