"""The command that evaluates a run's stitched network on its own or other test images."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from partrain.cli.config import CONF, evaluation_data
from partrain.cli.errors import job_errors_in_one_line
from partrain.device import devices_named
from partrain.errors import UserError
from partrain.report.evaluation import print_evaluation, write_evaluation
from partrain.stitching.evaluate import evaluate


@hydra.main(version_base="1.3", config_path=CONF, config_name="evaluate")
def main(config: DictConfig) -> None:
    """Evaluate the network of the run that the command line names, and write and print the evaluation."""
    with job_errors_in_one_line():
        if OmegaConf.is_missing(config, "run"):
            raise UserError("run=<folder> is needed: the folder of the run to evaluate")
        run = Path(config.run)
        result = evaluate(run, evaluation_data(config), devices_named(config.device, "device")[0])
        name = "-".join(part for part in (result.data["name"], result.data["split"]) if part)
        folder = run / "evaluation" / name
        write_evaluation(result, run, folder)
        print_evaluation(result, folder)
