"""The command that searches over settings, from its command line to the search."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from partrain.cli.config import CONF, hydra_words, run_settings, search_settings, split_search_arguments
from partrain.cli.errors import job_errors_in_one_line
from partrain.cli.old_words import refuse_old_words
from partrain.cli.resume import Work, resumed_search
from partrain.tuning.search import search

_space: list[str] = []
"""The command line's entries of the search space, such as "train.lr=loguniform(1e-4,1e-1)", which Hydra cannot parse."""


def main() -> None:
    """Run the search that the command line describes, or continue it."""
    refuse_old_words(sys.argv[1:])  # Also of those that are searched.
    words, _space[:] = split_search_arguments(sys.argv[1:])
    sys.argv[1:] = hydra_words(words)
    _search()


@hydra.main(version_base="1.3", config_path=CONF, config_name="search")
def _search(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    with job_errors_in_one_line():
        work = Work(run_settings(config), search_settings(config, _space))
        if config.resume:
            work = resumed_search(Path(config.resume), work, _space)
        search(work.shared, work.besides, hydra_config.runtime.output_dir)
