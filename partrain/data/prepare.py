"""The way from settings to a prepared data set, which is made once and then opened from the cache."""

from __future__ import annotations

from partrain.data import store
from partrain.data.dataset import Dataset
from partrain.data.mnist_family import MnistFamilySource
from partrain.data.settings import DataSettings, FileSettings, Glyphs
from partrain.data.source import Source


def prepare_data(settings: DataSettings, *, show_progress: bool = True) -> Dataset:
    """Return the data set of `settings` from the cache, after preparing it there if it is missing.

    Args:
        settings: Names of the data set, of its files and of the cache.
        show_progress: Whether a bar (on a terminal) or one line (elsewhere) is shown while arrays are made.

    Raises:
        UserError: If files are missing or hold something else than the data set, or a limit exceeds it.
    """
    source = _make_source(settings)
    folder = settings.cache_folder / store.folder_name(source, settings.limits)
    store.ensure_prepared(source, folder, settings.limits, show_progress=show_progress)
    return Dataset.open(folder)


def _make_source(settings: DataSettings) -> Source:
    if isinstance(settings, Glyphs):
        # Imported here, since drawing needs matplotlib and opening prepared arrays does not.
        from partrain.data.glyphs import GlyphSource

        return GlyphSource(settings.seed)
    assert isinstance(settings, FileSettings)
    return MnistFamilySource.from_settings(settings)
