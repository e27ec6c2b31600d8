"""The command that compares strategies by a grid of runs, from its command line to the comparison."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from partrain.cli.config import CONF, grid_settings, hydra_words, run_settings
from partrain.cli.errors import job_errors_in_one_line
from partrain.cli.resume import Work, resumed_comparison
from partrain.comparison.compare import compare


def main() -> None:
    """Do the runs of the comparison that the command line describes, and exit with code 1 if any of them failed."""
    sys.argv[1:] = hydra_words(sys.argv[1:])
    _compare()


@hydra.main(version_base="1.3", config_path=CONF, config_name="compare")
def _compare(config: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    with job_errors_in_one_line():
        work = Work(run_settings(config), grid_settings(config))
        if config.resume:
            work = resumed_comparison(Path(config.resume), work)
        runs = compare(work.shared, work.besides, hydra_config.runtime.output_dir)
    if any(not run.results for run in runs):
        sys.exit(1)
