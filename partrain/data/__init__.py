"""Data sets as memory-mapped arrays, which all processes of a machine share; PyTorch's are copied into each process.

They are characters drawn from fonts, EMNIST and its relatives, and a user's own arrays.
"""

from partrain.data.dataset import Dataset, Split
from partrain.data.prepare import prepare_data
from partrain.data.settings import DATA_SETS, EMNIST, EMNIST_SPLITS, KMNIST, MNIST, DataSettings, FashionMNIST, Glyphs

__all__ = [
    "DATA_SETS",
    "EMNIST",
    "EMNIST_SPLITS",
    "KMNIST",
    "MNIST",
    "DataSettings",
    "Dataset",
    "FashionMNIST",
    "Glyphs",
    "Split",
    "prepare_data",
]
