"""Launchers: they start training processes, place them on devices and supervise them, and read nothing but folders."""
