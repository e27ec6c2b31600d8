"""The stitched network: its files, its weights from trained segments, and its accuracy."""
