"""From settings to a prepared data set."""

from __future__ import annotations

from partrain.data import store
from partrain.data.dataset import Dataset
from partrain.data.mnist_family import MnistFamily
from partrain.data.settings import DataSettings
from partrain.data.source import Source


def prepare_data(settings: DataSettings, *, show_progress: bool = True) -> Dataset:
    """The data set that `settings` name, from the cache, or made and put there first.

    show_progress: show a bar on a terminal, or one line elsewhere, while arrays are made.

    Raises:
        ValueError: files are missing or hold something else than the data set, or a limit exceeds it.
    """
    source = _source(settings)
    folder = settings.cache_folder / store.folder_name(source, settings.limits)
    store.ensure(source, folder, settings.limits, show_progress)
    return Dataset.open(folder)


def _source(settings: DataSettings) -> Source:
    if settings.name == "glyphs":
        from partrain.data.glyphs import Glyphs  # here, since drawing needs matplotlib, and opening arrays does not

        return Glyphs(settings.seed)
    return MnistFamily.of(settings)
