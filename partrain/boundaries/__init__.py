"""Boundaries between segments: what the right side is fed, what the left side is held to, and the codes of classes."""
