"""The command that trains a network, from its command line to the run."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from partrain.cli.config import CONF, resumed_settings, run_settings
from partrain.cli.errors import job_errors_in_one_line
from partrain.cli.old_words import refuse_old_words
from partrain.runs.run import run


def main() -> None:
    """Do the run that the command line describes, or resume one."""
    refuse_old_words(sys.argv[1:])
    _train()


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
def _train(config: DictConfig) -> None:
    folder = HydraConfig.get().runtime.output_dir
    with job_errors_in_one_line(resume=folder):
        settings = resumed_settings(config) if config.resume else run_settings(config)
        run(settings, folder)
