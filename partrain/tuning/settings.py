"""Settings of a search: its method, space and budget, and the metric by which trials are promoted."""

from dataclasses import dataclass, field
from typing import ClassVar

from partrain import checks
from partrain.errors import UserError
from partrain.options import Settings
from partrain.report.formatting import format_percent

METHODS = ("hyperband", "successive_halving", "random", "grid")

METRICS = {"validation_accuracy": True, "validation_loss": False}  # Whether a higher score is better.

_COUNTED = ("random", "successive_halving")  # Methods that need search.configurations.


def format_score(metric: str, score: float) -> str:
    """Return a score as text: an accuracy in percent, "84.12 %", or a loss with four digits, "0.8412"."""
    return format_percent(score) if metric.endswith("accuracy") else f"{score:.4f}"


@dataclass(kw_only=True)
class SearchSettings(Settings):
    """The settings of a search: its method, space and budget, and how trials are scored."""

    group: ClassVar[str] = "search"

    method: str = "hyperband"
    """The search method: hyperband, successive_halving, random or grid."""
    space: list[str] = field(default_factory=list)
    """Searched settings with their distributions, such as train.lr=loguniform(1e-4,1e-1); the command line adds its
    own."""
    configurations: int | None = None
    """Number of trials that random and successive_halving draw, 1 or more; the other methods decide it themselves."""
    eta: int = 3
    """One in eta trials is promoted from a rung to the next and trains eta times as long there, 2 or more."""
    min_epochs: int = 1
    """The fewest epochs of a rung, 1 or more."""
    metric: str = "validation_accuracy"
    """The score of a trial on the held-out images: validation_accuracy or validation_loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of("search.method", self.method, METHODS)
        checks.one_of("search.metric", self.metric, METRICS)
        checks.at_least("search.eta", self.eta, 2)
        checks.at_least("search.min_epochs", self.min_epochs, 1)
        counted = self.method in _COUNTED
        if counted and self.configurations is None:
            raise UserError(f"search.method={self.method} needs search.configurations=<how many>")
        if not counted and self.configurations is not None:
            raise UserError(
                f"search.configurations={self.configurations}: search.method={self.method} decides how many; leave it out"
            )
        if self.configurations is not None:
            checks.at_least("search.configurations", self.configurations, 1)

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher score is better."""
        return METRICS[self.metric]
