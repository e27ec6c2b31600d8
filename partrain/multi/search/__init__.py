"""Search among settings: random and grid search, successive halving and Hyperband, over rungs of epochs."""

from partrain.multi.search.driver import search
from partrain.multi.search.settings import SearchSettings

__all__ = ["SearchSettings", "search"]
