"""A search from settings to results: configurations are drawn and checked, then trained and promoted rung by rung.

Brackets do not depend on one another, so they advance together: a wave trains all configurations that are left, of all
brackets, until the next epoch at which some rung ends; those in longer rungs pause there. So as many as can be train at
once. Every step leaves files in the search's folder and is passed over where they are there: killed at any moment and
called again, the search goes on with the same promotions and comes to the same results.
"""

import math
from collections.abc import Sequence, Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from partrain.console import console
from partrain.data import Dataset, prepare_data
from partrain.errors import UserError
from partrain.launch.machine import machine
from partrain.launch.placement import place
from partrain.launch.settings import LaunchSettings
from partrain.runs.command import command, resumable
from partrain.runs.results import versions
from partrain.settings import RunSettings
from partrain.storage.manifest import write_manifest
from partrain.storage.run_folder import SEARCH_MANIFEST
from partrain.tuning.brackets import Bracket, Wave, promoted, waves
from partrain.tuning.configurations import Configuration, brackets_of, check_configurations, draw
from partrain.tuning.folder import RungResult, SearchFolder
from partrain.tuning.leaderboard import print_results, write_leaderboard
from partrain.tuning.record import SearchRecord
from partrain.tuning.rungs import RungTrainer
from partrain.tuning.settings import SearchSettings
from partrain.tuning.space import Space
from partrain.tuning.trainer import Trainer, Trial
from partrain.tuning.values import check_names, settings_with
from partrain.tuning.view import View


def search(
    shared: RunSettings,
    settings: SearchSettings,
    folder: str | Path,
    dataset: Dataset | None = None,
    show: bool = True,
    arguments: Sequence[str] = (),
    trainer: Trainer | None = None,
) -> dict[str, Any]:
    """Do the search that `settings` describe in `folder`, or go on with it; returns what results.json says.

    Configurations have all of `shared` in common but what the space sets. With `partition.dry_run` they are drawn,
    checked and listed, no more. `dataset`: instead of the one that `shared.data` names. `show`: how far it is and what
    came out; failures are told anyway. `arguments`: of experiments/search.py, to be said after Ctrl-C. `trainer`: who
    trains, instead of partrain's own.

    Raises:
        ValueError: a setting is wrong, a configuration cannot be trained, or the folder holds another search, and nothing
            has begun; or all configurations have failed.
    """
    folder = Path(folder).absolute()
    space = Space.parse(settings.space)
    check_names(shared, space.names)
    brackets = brackets_of(settings, space, shared.train.epochs)
    place(shared.launch.device, 1)  # so that a device that is not there is said before data are prepared
    dataset = dataset or prepare_data(shared.data)
    configurations = draw(settings, space, brackets, shared.seed)
    images = len(dataset.train)
    check_configurations(configurations, shared, dataset, images - settings.held_out(images))
    if show:
        console.print(_described(settings, brackets, configurations), markup=False)
    if shared.partition.dry_run:
        console.print("\n".join(f"bracket {each.bracket}  {each}" for each in configurations), markup=False)
        return {}
    about = {"search": asdict(settings), "settings": shared.fingerprint(), "machine": machine()}
    write_manifest(folder / SEARCH_MANIFEST, about, "search", derived={"brackets": list(map(asdict, brackets))})
    if trainer is None:
        trainer = RungTrainer(dataset, shared, settings, show)
    with resumable(folder, "search", arguments):
        results = _Search(shared, settings, SearchFolder(folder), brackets, configurations, trainer).run(dataset, show)
    if show:
        print_results(folder)
    return results


class _Search:
    """A search under way."""

    def __init__(
        self,
        shared: RunSettings,
        settings: SearchSettings,
        folder: SearchFolder,
        brackets: Sequence[Bracket],
        drawn: Sequence[Configuration],
        trainer: Trainer,
    ) -> None:
        self.shared, self.settings, self.folder, self.trainer = shared, settings, folder, trainer
        self.brackets, self.waves = brackets, waves(brackets)
        self.configurations = folder.draw(drawn)

    def run(self, dataset: Dataset, show: bool) -> dict[str, Any]:
        """Do the waves that are left, then finish the winner."""
        done = next((number for number in range(len(self.waves)) if not self.folder.is_done(number)), len(self.waves))
        if done and show:
            console.print(f"{done} of {len(self.waves)} waves are done already")
        metric, seconds = self.settings.metric, sum(self.folder.wave_seconds())
        try:
            with View(self.brackets, self.configurations, metric, done, seconds, show) as view:
                for number in range(done, len(self.waves)):
                    self.do_wave(number, view)
                    self.publish(self.shared.report.refresh or None)
            return self.folder.results() or self.conclude(dataset)
        finally:
            self.publish()  # or the page would say for ever that the search goes on

    def entrants(self, wave: Wave) -> dict[Bracket, tuple[int, list[int]]]:
        """The rung that each bracket is in, and its configurations; no bracket that has none left."""
        found = {}
        for bracket in self.brackets:
            rung = bracket.on_the_way(wave.stop)
            if rung == 0:
                own = [each.index for each in self.configurations if each.bracket == bracket.number]
                found[bracket] = (rung, own)
            elif rung and (before := self.folder.rung(bracket.number, rung - 1)) and before.promoted:
                found[bracket] = (rung, sorted(before.promoted))
        return found

    def do_wave(self, number: int, view: View) -> None:
        """Train, score and promote. All train even where some rungs are done: what trains together decides bits."""
        wave = self.waves[number]
        entrants, failed = self.entrants(wave), self.folder.failed(range(number))
        left = [index for _, indices in entrants.values() for index in indices if index not in failed]
        trials = [self.trial(index, wave.stop) for index in left]
        ending = {bracket: rung for bracket, (rung, _) in entrants.items() if bracket.rungs[rung].epochs == wave.stop}
        view.begin(trials)
        with self.folder.timed(number) as seconds:
            scored = {index for bracket in ending for index in entrants[bracket][1]}
            newly, scores = self.train_and_score(trials, scored, view)
        failed |= newly
        results = []
        for bracket, rung in ending.items():
            indices = entrants[bracket][1]
            own: dict[int, float | None] = {index: scores.get(index) for index in indices}
            following = bracket.rungs[rung + 1].configurations if rung + 1 < len(bracket.rungs) else 0
            result = self.folder.rung(bracket.number, rung) or RungResult(
                bracket=bracket.number,
                rung=rung,
                epochs=wave.stop,
                scores=own,
                failed={index: failed[index] for index in indices if index in failed},
                promoted=promoted(own, following, self.settings.higher_is_better),
                seconds=seconds(),
            )
            self.folder.write_rung(result)
            results.append(result)
        self.folder.end_wave(number, newly)
        view.end(results)

    def train_and_score(
        self, trials: Sequence[Trial], scored: Set[int], view: View
    ) -> tuple[dict[int, str], dict[int, float]]:
        """Why those failed that did, and the scores of the others that are to be `scored`, by index."""
        reasons = self.trainer.train(trials) if trials else {}
        failed = {index: self.told(reason) for index, reason in reasons.items()}
        for index, reason in failed.items():
            view.failed(index, reason)
        trained = [trial for trial in trials if trial.index in scored and trial.index not in failed]
        scores = self.trainer.score(trained, self.settings.metric) if trained else {}
        for index, score in scores.items():
            if not math.isfinite(score):
                failed[index] = f"its {self.settings.metric} is {score}"
                view.failed(index, failed[index])
        return failed, {index: score for index, score in scores.items() if index not in failed}

    def trial(self, index: int, epochs: int) -> Trial:
        settings = settings_with(self.shared, self.configurations[index].values)
        return Trial(index=index, settings=settings, folder=self.folder.run_folder(index), epochs=epochs)

    def told(self, reason: str) -> str:
        """In one line, without where the search lies."""
        return reason.splitlines()[0].replace(f"{self.folder.path}/", "")

    def publish(self, refresh: float | None = None) -> None:
        """Write the leaderboard and the page, from what is there so far, which `refresh` seconds later may be more."""
        write_leaderboard(self.folder.path)
        if self.shared.report.page:
            from partrain.tuning.page import write_search_page  # plotly, which training need not wait for

            write_search_page(self.folder.path, refresh)

    def conclude(self, dataset: Dataset) -> dict[str, Any]:
        """Finish the best of those trained for the most epochs, and write results.json.

        Raises:
            ValueError: all have failed.
        """
        record = SearchRecord.read(self.folder.path)
        winner = record.winner
        if winner is None:
            first = next(each for each in record.standings.values() if each.failure)
            raise UserError(
                f"all {len(self.configurations)} configurations failed; {self.configurations[first.index]}: {first.failure}"
            )
        trial = self.trial(winner.index, winner.epochs)
        finished = self.trainer.finish(trial)
        alone = replace(trial.settings, launch=replace(trial.settings.launch, pack=LaunchSettings.pack))
        named = dataset.name == self.shared.data.name  # not arrays given from Python
        results = {
            "method": self.settings.method,
            "metric": self.settings.metric,
            "best": {
                "index": winner.index,
                "values": winner.values,
                "score": winner.score,
                "epochs": winner.epochs,
                "test_accuracy": finished["test_accuracy"],
                "command": command(alone.to_json()) if named else None,
            },
            "configurations": len(self.configurations),
            "epochs_trained": sum(each.epochs for each in record.standings.values()),
            "seconds": sum(self.folder.wave_seconds()),
            "packed": self.shared.launch.name == "local" and self.shared.launch.pack != "never",
            "data": dataset.provenance(),
            "versions": versions(),
        }
        self.folder.write_results(results)
        return results


def _described(settings: SearchSettings, brackets: Sequence[Bracket], configurations: Sequence[Configuration]) -> str:
    epochs = sum(wave.epochs(brackets) for wave in waves(brackets))
    count = f"{len(brackets)} bracket{'s' * (len(brackets) != 1)}"
    return f"{settings.method}: {len(configurations)} configurations in {count}, {epochs} epochs in all"
