"""Launchers place segment tasks on devices and see them through; they know folders, not labels."""
