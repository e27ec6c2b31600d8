"""How long a sharded training would take on other devices, from the costs that one has recorded. `--help`: the settings."""

import hydra
from omegaconf import DictConfig, OmegaConf

from partrain.cli.config import clear_errors, clear_job_errors, register
from partrain.shards.makespans import SimulateSettings, show_makespans


@hydra.main(version_base="1.3", config_path="../conf", config_name="simulate")
def main(config: DictConfig) -> None:
    with clear_job_errors():
        settings = OmegaConf.to_object(config)
        assert isinstance(settings, SimulateSettings)
        show_makespans(settings)


if __name__ == "__main__":
    register()
    with clear_errors():
        main()
