"""Runs of the main job, from settings to results: start reading at `run.py`."""
