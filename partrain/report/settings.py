"""The settings of a run's page: whether and how often it is written."""

from dataclasses import dataclass
from typing import ClassVar

from partrain import checks
from partrain.options import Settings


@dataclass(kw_only=True)
class ReportSettings(Settings):
    """The settings of a run's page."""

    group: ClassVar[str] = "report"

    page: bool = True
    """Whether the run's page, report.html, is written."""
    refresh: float = 10.0
    """Seconds between two writings of the page while a run trains, 0 or more; 0 writes it only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least("report.refresh", self.refresh, 0)
