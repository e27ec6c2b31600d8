"""The main job: cut a network, train every segment on its own, stitch, evaluate. `--help` lists the settings."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import partrain
from partrain.cli.config import clear_errors, clear_job_errors, register, resumed_settings, run_settings


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    folder = HydraConfig.get().runtime.output_dir
    with clear_job_errors(resume=folder):
        settings = resumed_settings(config) if config.resume else run_settings(config)
        partrain.run(settings, folder)


if __name__ == "__main__":
    register()
    with clear_errors():
        main()
