"""Whether and how often a run's page is written."""

from dataclasses import dataclass

from partrain import checks


@dataclass(kw_only=True)
class ReportSettings:
    """`page`: write report.html. `refresh`: seconds between two writings while the run trains; 0: only at its end."""

    page: bool = True
    refresh: float = 10.0

    def __post_init__(self) -> None:
        checks.at_least("report.refresh", self.refresh, 0)
