"""Many models at once: stacked into one and trained together, and searched among."""
