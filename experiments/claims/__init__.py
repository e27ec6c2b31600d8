"""Claims, each in a folder with its script, its table and what was seen."""
