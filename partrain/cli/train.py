"""The command that trains a network, from its command line to the run."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from partrain.cli.config import CONF, hydra_words, run_settings
from partrain.cli.errors import job_errors_in_one_line
from partrain.cli.objective import check_objective, objective_value
from partrain.cli.resume import resumed_run
from partrain.runs.run import run


def main() -> None:
    """Do the run that the command line describes, or resume one."""
    sys.argv[1:] = hydra_words(sys.argv[1:])
    _train()


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def _train(config: DictConfig) -> float | None:
    folder = HydraConfig.get().runtime.output_dir
    with job_errors_in_one_line():
        settings = run_settings(config)
        if config.resume:
            settings = resumed_run(Path(config.resume), settings)
        check_objective(config.objective, settings)
        return objective_value(config.objective, run(settings, folder))
    return None
