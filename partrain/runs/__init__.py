"""Runs from settings to results."""
