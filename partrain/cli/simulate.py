"""The command that prints how long a sharded training takes on other devices, simulated from measured costs."""

import hydra
from omegaconf import DictConfig, OmegaConf

from partrain.cli.config import CONF
from partrain.cli.errors import job_errors_in_one_line
from partrain.shards.makespans import SimulateSettings, print_makespans


@hydra.main(version_base="1.3", config_path=CONF, config_name="simulate")
def main(config: DictConfig) -> None:
    """Print the table of makespans that the command line asks for."""
    with job_errors_in_one_line():
        settings = OmegaConf.to_object(config)
        assert isinstance(settings, SimulateSettings)
        print_makespans(settings)
