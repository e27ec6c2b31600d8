"""The objective of a sweep: the number that a training returns to Hydra's sweeper."""

from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from partrain import checks
from partrain.errors import UserError
from partrain.settings import RunSettings

OBJECTIVES = ("validation_accuracy", "validation_loss", "test_accuracy")
"""The values of `objective`."""
_BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def check_objective(objective: str | None, settings: RunSettings) -> None:
    """Raise `UserError` if the objective cannot be measured, or if a sweeper would choose by test images.

    Args:
        objective: The objective, or None for none.
        settings: The settings of the run.
    """
    if objective is not None:
        checks.one_of("objective", objective, OBJECTIVES)
    has_held_out = settings.data.validation is not None
    if objective in ("validation_accuracy", "validation_loss") and not has_held_out:
        raise UserError(f"objective={objective} needs held-out images; set data.validation, such as to 0.1")
    hydra = HydraConfig.get()
    is_optimising = hydra.mode == RunMode.MULTIRUN and hydra.sweeper["_target_"] != _BASIC_SWEEPER
    if is_optimising and (objective is None or objective == "test_accuracy"):
        raise UserError(
            "this sweeper chooses by what a training returns; set objective=validation_accuracy data.validation=0.1"
        )


def objective_value(objective: str | None, results: dict[str, Any]) -> float | None:
    """Return the objective of a finished run, or None where none is set or nothing was trained."""
    return None if objective is None or objective not in results else float(results[objective])
