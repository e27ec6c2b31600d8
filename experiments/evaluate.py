"""Evaluate a run's stitched network on its own or other test images. `--help` lists the settings."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

import partrain
from partrain.cli.config import evaluation_data, register_schemas
from partrain.cli.errors import errors_in_one_line, job_errors_in_one_line
from partrain.device import devices_named
from partrain.errors import UserError
from partrain.report.evaluation import print_evaluation, write_evaluation


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Evaluate the network of a run, and write and print the evaluation."""
    with job_errors_in_one_line():
        if OmegaConf.is_missing(config, "run"):
            raise UserError("run=<folder> is needed: the folder of the run to evaluate")
        run = Path(config.run)
        result = partrain.evaluate(run, evaluation_data(config), devices_named(config.device, "device")[0])
        name = "-".join(part for part in (result.data["name"], result.data["split"]) if part)
        folder = run / "evaluation" / name
        write_evaluation(result, run, folder)
        print_evaluation(result, folder)


if __name__ == "__main__":
    register_schemas()
    with errors_in_one_line():
        main()
