"""One training from its folder alone: its task, its loop, and the files that it leaves."""
