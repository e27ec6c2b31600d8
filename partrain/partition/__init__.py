"""Where a network is cut, and what each piece costs."""
