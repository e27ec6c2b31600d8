"""Print how long a sharded training takes on other devices, simulated from the costs that one has measured.

    python experiments/simulate.py costs=runs/<folder>/shards/0/costs.json devices=[1,2,4,8]

The option --help lists the settings.
"""

import hydra
from omegaconf import DictConfig, OmegaConf

from partrain.cli.config import register_schemas
from partrain.cli.errors import errors_in_one_line, job_errors_in_one_line
from partrain.shards.makespans import SimulateSettings, print_makespans


@hydra.main(version_base="1.3", config_path="../conf", config_name="simulate")
def main(config: DictConfig) -> None:
    """Print the table of makespans that the settings ask for."""
    with job_errors_in_one_line():
        settings = OmegaConf.to_object(config)
        assert isinstance(settings, SimulateSettings)
        print_makespans(settings)


if __name__ == "__main__":
    register_schemas()
    with errors_in_one_line():
        main()
