"""Launchers place segment tasks on devices and see them through; they know folders, not labels."""

from partrain.launch.local import LaunchSettings, SegmentFailed, launch

__all__ = ["LaunchSettings", "SegmentFailed", "launch"]
