"""One training from its folder alone: the task, the loop, the segment, what it leaves."""
