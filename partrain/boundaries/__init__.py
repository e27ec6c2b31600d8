"""Boundaries between segments, and the random codes that stand for the classes there."""
