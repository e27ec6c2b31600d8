"""Searches from settings to results: trials are drawn and checked, then trained, scored and promoted rung by rung.

The brackets of a search advance together, in rounds (`brackets.py`). Every step writes files into the search's folder,
and a step whose files are there is skipped. So a search that was killed at any moment continues when it is called again,
with the same promotions and the same results.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from partrain.console import ProgressDisplay, console
from partrain.data import Dataset, prepare_data
from partrain.errors import UserError
from partrain.launch.executor import Executor
from partrain.launch.launcher import Launcher
from partrain.launch.machine import machine_facts
from partrain.packs.settings import Pack
from partrain.report.formatting import format_quantity
from partrain.runs.command import print_resume_command, train_command
from partrain.runs.config_file import write_config
from partrain.runs.results import package_versions
from partrain.settings import Alone, RunSettings
from partrain.storage.checkpoint import remove_partial_files
from partrain.storage.lock import hold_lock
from partrain.storage.run_folder import CONFIG
from partrain.tuning.brackets import Bracket, Round, plan_rounds, select_best
from partrain.tuning.folder import RungResult, SearchFolder, SearchManifest
from partrain.tuning.leaderboard import print_results, write_leaderboard
from partrain.tuning.record import METHOD_TITLES, SearchRecord, TrialRecord
from partrain.tuning.rungs import RungTrainer
from partrain.tuning.settings import SearchSettings
from partrain.tuning.space import Space
from partrain.tuning.trainer import Trainer, TrialRun
from partrain.tuning.trials import Trial, check_trials, draw_trials, make_brackets
from partrain.tuning.values import apply_values, check_names
from partrain.tuning.view import SearchView


def search(
    shared: RunSettings,
    settings: SearchSettings,
    folder: str | Path,
    dataset: Dataset | None = None,
    *,
    show_progress: bool = True,
    trainer: Trainer | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Run a search in `folder`, or continue it, and return the contents of its results.json.

    With `partition.dry_run` the trials are only drawn, checked and listed, and the result is empty.

    Args:
        shared: The settings of all trials, but for those that the search space sets.
        settings: The method, the space and the budget of the search.
        folder: The folder of the search, new or of this same search.
        dataset: The data to train on, in place of those that `shared.data` names.
        show_progress: Whether progress and results are printed. Failures are always printed.
        trainer: The trainer of the trials, in place of partrain's own.
        executor: The place where trials are trained and scored, in place of the one that `shared.launch` names.

    Raises:
        UserError: If a setting is wrong, a trial cannot be trained, the folder holds another search, or another launcher
            uses it. These are found before training begins. Also if all trials have failed.
        JobFailed: If a process failed, rather than a trial, or the winner's recovery failed.
        KeyboardInterrupt: After Ctrl-C, or SIGTERM during training. The same call continues the search.
    """
    folder = Path(folder).absolute()
    launcher = Launcher(shared.launch, executor)  # A device that does not exist is reported before data are prepared.
    plan = _plan_search(shared, settings, dataset)
    if show_progress:
        console.print(plan.summary())
    if shared.partition.dry_run:
        console.print(plan.list_trials())
        return {}

    if trainer is None:
        trainer = RungTrainer(plan.dataset, shared, launcher, show_timings=show_progress)
    SearchFolder(folder).check_manifest(plan.manifest())  # A folder of other work is left as it is.
    with hold_lock(folder, "search"), print_resume_command("search", folder, shared, plan.dataset):
        SearchFolder(folder).write_manifest(plan.manifest())
        write_config(folder / CONFIG, shared, settings)
        results = _SearchLoop(plan, SearchFolder(folder), trainer).run(show_progress=show_progress)
        remove_partial_files(folder, recursive=True)
    if show_progress:
        print_results(folder)
    return results


@dataclass(frozen=True, kw_only=True)
class _SearchPlan:
    """The plan of a search before it begins."""

    shared: RunSettings
    settings: SearchSettings
    dataset: Dataset
    brackets: Sequence[Bracket]
    trials: Sequence[Trial]

    def summary(self) -> str:
        """Return the size of the search in one line."""
        rounds = plan_rounds(self.brackets)
        epochs = sum(planned.count_epochs(self.brackets) for planned in rounds)
        brackets = format_quantity(len(self.brackets), "bracket")
        title = METHOD_TITLES[self.settings.method]
        return f"{title}: {len(self.trials)} configurations in {brackets}, {epochs} epochs in total"

    def list_trials(self) -> str:
        """Return a line for each trial."""
        return "\n".join(f"Bracket {trial.bracket}: {trial}" for trial in self.trials)

    def manifest(self) -> SearchManifest:
        """Return the contents of the search's search.json."""
        return SearchManifest(
            search=asdict(self.settings),
            settings=self.shared.fingerprint(),
            machine=machine_facts(),
            brackets=list(self.brackets),
        )


def _plan_search(shared: RunSettings, settings: SearchSettings, dataset: Dataset | None) -> _SearchPlan:
    """Draw the trials of a search and check that each can be trained."""
    if shared.data.validation is None:
        raise UserError("a search scores trials on held-out images; set data.validation, such as to 0.1")
    space = Space.parse(settings.space)
    check_names(shared, space.names)
    brackets = make_brackets(settings, space, shared.train.epochs)
    dataset = dataset or prepare_data(shared.data)
    trials = draw_trials(settings, space, brackets, shared.seed)
    check_trials(trials, shared, dataset)
    return _SearchPlan(shared=shared, settings=settings, dataset=dataset, brackets=brackets, trials=trials)


@dataclass(frozen=True)
class _ActiveRung:
    """A rung whose trials train in the current round."""

    bracket: Bracket
    number: int
    """The number of the rung in its bracket."""
    trials: list[int]
    """The indices of the trials that were promoted into the rung, those that have failed in it included."""

    @property
    def epochs(self) -> int:
        """Return the epoch at which the rung ends."""
        return self.bracket.rungs[self.number].epochs

    @property
    def num_promoted(self) -> int:
        """Return how many of the trials are promoted to the next rung, if that many have a score."""
        following = self.number + 1
        return self.bracket.rungs[following].num_trials if following < len(self.bracket.rungs) else 0


@dataclass(frozen=True)
class _RoundOutcome:
    """The outcome of training and scoring in one round, by trial."""

    failures: dict[int, str]
    """The reason of each failure in this round."""
    scores: dict[int, float]
    """The scores of the trials whose rung has ended, without those that failed."""


class _SearchLoop:
    """The loop over the rounds of a search, from the first that has not finished."""

    def __init__(self, plan: _SearchPlan, folder: SearchFolder, trainer: Trainer) -> None:
        self.shared, self.settings, self.dataset = plan.shared, plan.settings, plan.dataset
        self.brackets, self.rounds = plan.brackets, plan_rounds(plan.brackets)
        self.folder, self.trainer = folder, trainer
        self.trials = folder.store_trials(plan.trials)

    def run(self, *, show_progress: bool) -> dict[str, Any]:
        """Run the rounds that have not finished, then finish the winner, and return the contents of results.json."""
        num_finished = self.count_finished_rounds()
        if num_finished and show_progress:
            console.print(f"{num_finished} of {len(self.rounds)} rounds have finished already.")
        display = ProgressDisplay(show_progress=show_progress, show_time_left=False)
        view = SearchView(self.brackets, self.trials, self.settings.metric, display)
        view.skip_rounds(num_finished, sum(self.folder.round_seconds()))
        try:
            with view:
                for number in range(num_finished, len(self.rounds)):
                    self.run_round(number, view)
                    self.publish(self.shared.report.refresh or None)
            return self.folder.results() or self.finish()
        finally:
            self.publish()  # Without this last time the page would go on to show a search under way.

    def count_finished_rounds(self) -> int:
        """Return how many rounds have finished; they are always the first ones."""
        for number in range(len(self.rounds)):
            if not self.folder.is_round_finished(number):
                return number
        return len(self.rounds)

    # ---- A round.

    def run_round(self, number: int, view: SearchView) -> None:
        """Train the trials that are left up to the end of a round, and score and promote where a rung ends.

        All of them train again even if the files of some rungs are there already. A trial's weights depend in their last
        bits on the trials that it trains together with.
        """
        current_round = self.rounds[number]
        active_rungs = self.active_rungs(current_round)
        ending_rungs = [rung for rung in active_rungs if rung.epochs == current_round.stop]
        failures = self.folder.failures(range(number))
        indices = chain.from_iterable(rung.trials for rung in active_rungs)
        runs = [self.trial_run(index, current_round.stop) for index in indices if index not in failures]

        view.begin_round(runs)
        with self.folder.measure_round(number):
            outcome = self.train_and_score(runs, ending_rungs, view)
        failures |= outcome.failures

        seconds = self.folder.seconds_of_round(number)
        results = [self.rung_result(rung, outcome.scores, failures, seconds) for rung in ending_rungs]
        for result in results:
            self.folder.write_rung(result)
        self.folder.finish_round(number, outcome.failures)
        view.end_round(results)

    def active_rungs(self, current_round: Round) -> list[_ActiveRung]:
        """Return the rung that each bracket is in during a round, without brackets that have no trials left."""
        active_rungs = []
        for bracket in self.brackets:
            rung = bracket.rung_at(current_round.stop)
            trials = [] if rung is None else self.trials_in_rung(bracket, rung)
            if rung is not None and trials:
                active_rungs.append(_ActiveRung(bracket, rung, trials))
        return active_rungs

    def trials_in_rung(self, bracket: Bracket, rung: int) -> list[int]:
        """Return the indices of a rung's trials: all of the bracket, or those promoted by the rung before."""
        if rung == 0:
            return [trial.index for trial in self.trials if trial.bracket == bracket.number]
        previous = self.folder.rung(bracket.number, rung - 1)
        return sorted(previous.promoted) if previous else []

    def trial_run(self, index: int, epochs: int) -> TrialRun:
        """Return the run of a trial, which is to train up to `epochs` epochs."""
        settings = apply_values(self.shared, self.trials[index].values)
        return TrialRun(index=index, settings=settings, folder=self.folder.run_folder(index), epochs=epochs)

    def train_and_score(
        self, runs: Sequence[TrialRun], ending_rungs: Sequence[_ActiveRung], view: SearchView
    ) -> _RoundOutcome:
        """Train `runs`, and score the trials of the rungs that end; a score that is not finite is a failure."""
        reasons = self.trainer.train(runs) if runs else {}
        failures = {index: self.shorten_reason(reason) for index, reason in reasons.items()}
        for index, reason in failures.items():
            view.report_failure(index, reason)

        to_score = set(chain.from_iterable(rung.trials for rung in ending_rungs))
        trained = [run for run in runs if run.index in to_score and run.index not in failures]
        scores = self.trainer.score(trained, self.settings.metric) if trained else {}
        for index, score in scores.items():
            if not math.isfinite(score):
                failures[index] = f"its {self.settings.metric} is {score}"
                view.report_failure(index, failures[index])
        return _RoundOutcome(failures, {index: score for index, score in scores.items() if index not in failures})

    def shorten_reason(self, reason: str) -> str:
        """Return the first line of a failure's reason, with file names relative to the search's folder."""
        return reason.splitlines()[0].replace(f"{self.folder.path}/", "")

    def rung_result(
        self, rung: _ActiveRung, scores: dict[int, float], failures: dict[int, str], seconds: float
    ) -> RungResult:
        """Return the stored result of a rung, or that of a rung that has just ended, with its promotions."""
        stored = self.folder.rung(rung.bracket.number, rung.number)
        if stored:
            return stored
        rung_scores: dict[int, float | None] = {index: scores.get(index) for index in rung.trials}
        return RungResult(
            bracket=rung.bracket.number,
            rung=rung.number,
            epochs=rung.epochs,
            scores=rung_scores,
            failed={index: failures[index] for index in rung.trials if index in failures},
            promoted=select_best(rung_scores, rung.num_promoted, higher_is_better=self.settings.higher_is_better),
            seconds=seconds,
        )

    # ---- Leaderboard, page and results.

    def publish(self, refresh: float | None = None) -> None:
        """Write the leaderboard and the page from the files so far.

        Args:
            refresh: Seconds after which an open page reloads itself, while the search is under way.
        """
        write_leaderboard(self.folder.path)
        if self.shared.report.page:
            from partrain.tuning.page import write_search_page  # Training need not wait for the import of plotly.

            write_search_page(self.folder.path, refresh)

    def finish(self) -> dict[str, Any]:
        """Finish the run of the winner, and write and return results.json.

        Raises:
            UserError: If all trials have failed.
        """
        record = SearchRecord.read(self.folder.path)
        winner = record.winner
        if winner is None:
            first = next(trial for trial in record.trials.values() if trial.failure)
            raise UserError(
                f"All {len(self.trials)} configurations failed; the first was {first.trial}: {first.failure}"
            )
        results = {
            "method": self.settings.method,
            "metric": self.settings.metric,
            "best": self.finish_winner(winner),
            "configurations": len(self.trials),
            "epochs_trained": sum(trial.epochs for trial in record.trials.values()),
            "seconds": sum(self.folder.round_seconds()),
            "packed": isinstance(self.shared.grouping, Pack),
            "data": self.dataset.provenance(),
            "versions": package_versions(),
        }
        self.folder.write_results(results)
        return results

    def finish_winner(self, winner: TrialRecord) -> dict[str, Any]:
        """Stitch and evaluate the winner's network, and return the winner's entry in results.json."""
        run = self.trial_run(winner.index, winner.epochs)
        run_results = self.trainer.finish(run)
        is_named = self.dataset.name == self.shared.data.name  # A command cannot name arrays given from Python.
        is_packed = isinstance(run.settings.grouping, Pack)
        unpacked = replace(run.settings, grouping=Alone()) if is_packed else run.settings
        on_all_images = replace(unpacked, data=replace(unpacked.data, validation=None))
        return {
            "index": winner.index,
            "values": winner.values,
            "score": winner.score,
            "epochs": winner.epochs,
            "test_accuracy": run_results["test_accuracy"],
            "command": train_command(on_all_images) if is_named else None,
        }
