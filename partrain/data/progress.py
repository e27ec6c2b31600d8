"""Progress on standard error: a bar on a terminal, one plain line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def progress_of(title: str, num_images: int, show: bool) -> Iterator[Callable[[int], None]]:
    """Gives a function to be called with every number of images that got ready."""
    console = Console(stderr=True)
    if show and console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(title, total=num_images)
            yield lambda count: bar.advance(task, count)
    else:
        if show:
            print(f"{title}: {num_images:,} images", file=sys.stderr, flush=True)
        yield lambda count: None
