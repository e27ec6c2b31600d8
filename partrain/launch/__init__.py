"""Launchers place segment tasks on devices and see them through; they know folders, not labels."""

from partrain.launch.job import SegmentFailed
from partrain.launch.local import LaunchSettings, launch

__all__ = ["LaunchSettings", "SegmentFailed", "launch"]
