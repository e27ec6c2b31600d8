"""Search over settings: random and grid search, successive halving, Hyperband. `--help` lists the settings."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from partrain.cli.config import apart, clear_errors, clear_job_errors, register, run_settings, search_settings
from partrain.tuning.search import search

space: list[str] = []
"""The command line's entries of the search space, such as "train.lr=loguniform(1e-4,1e-1)", which Hydra cannot parse."""


@hydra.main(version_base="1.3", config_path="../conf", config_name="search")
def main(config: DictConfig) -> None:
    """Run the search that the command line describes, or continue it."""
    hydra_config = HydraConfig.get()
    with clear_job_errors():
        folder = Path(hydra_config.runtime.output_dir)
        arguments = [*hydra_config.overrides.task, *space]
        search(run_settings(config), search_settings(config, space), folder, arguments=arguments)


if __name__ == "__main__":
    register()
    with clear_errors():
        sys.argv[1:], space = apart(sys.argv[1:])
        main()
