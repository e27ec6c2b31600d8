"""The main job: cut a network, train every segment on its own, stitch, evaluate. `--help` lists the settings."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import partrain
from partrain.cli.config import register_schemas, resumed_settings, run_settings
from partrain.cli.errors import errors_in_one_line, job_errors_in_one_line
from partrain.cli.old_words import refuse_old_words


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    """Do the run that the configuration describes, or resume one."""
    folder = HydraConfig.get().runtime.output_dir
    with job_errors_in_one_line(resume=folder):
        settings = resumed_settings(config) if config.resume else run_settings(config)
        partrain.run(settings, folder)


if __name__ == "__main__":
    register_schemas()
    with errors_in_one_line():
        refuse_old_words(sys.argv[1:])
        main()
