"""Compare the weights that a fixed list of runs trains in two commits, to prove that they are the same to the bit.

    python experiments/benchmarks/same_bits.py OLD NEW
    python experiments/benchmarks/same_bits.py OLD NEW --only mlp_k2 hyperband_packed
    python experiments/benchmarks/same_bits.py OLD --record experiments/benchmarks/results/same_bits_OLD.json
    python experiments/benchmarks/same_bits.py OLD --plant

Each commit is checked out into a git worktree of its own. Its runs are command lines in fp32 on the CPU, with one thread
a process and no decision that depends on time. OLD does them twice, each time with a data cache of its own. A run that
differs from itself proves nothing, and is listed as "no proof". NEW does them once. The exit code is 1 if a run of NEW
has other weights, a search other scores or promotions, or the prepared data other bytes.

`--plant` shows that the list can fail. NEW is then OLD with another derivation of seeds, on OLD's prepared data. The exit
code is 0 only if every run differs. Digests depend on the machine, so those of two machines are not to be compared.
"""

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
from measuring import machine_facts, markdown_table

ROOT = Path(__file__).resolve().parents[2]

DATA = "data"  # the row of the prepared data's arrays
SAME, DIFFERENT, NO_PROOF = "same", "DIFFERENT", "no proof"
SHORT = 12  # digits of a digest in the table
LINES_SHOWN = 40  # of what a failed run printed

SMALL = (
    *("data.limit_train=2000", "data.limit_test=500", "train.epochs=2", "train.batch_size=40", "train.precision=fp32"),
    *("launch.device=cpu", "launch.threads=1", "report.page=false"),
)
MLP = ("network.width=64", "network.dropout=0.1")
PACKED = ("grouping=pack", "grouping.trial=false", "grouping.memory_gib=2")
# 256 wide, the largest layer alone needs 0.0079 GiB, so that the networks are cut into two and three shards
SHARDED = ("strategy=end_to_end", "grouping=shards", "grouping.budget_gib=0.0085", "grouping.separate=true")
CNN = ("network=cnn", "network.channels=[8,16,16,16]", "network.strides=[2,2,2,1]", "network.hidden=[64]")

PACK_FILES = "packs/**/packs.json"
_OLD_WORDS = {"grouping=pack": "launch.pack=always", "grouping=shards": "launch=shards"}
_OLD_NAMES = {"network.name=same_bits": "network.builder=same_bits", "labels.name=same_bits": "labels.family=same_bits"}
SECOND_WORKER_FILES = "shards/**/workers/1.txt"

# files with weights, and how the weights' names begin, beside the optimizer's in a checkpoint
WEIGHT_FILES = {"checkpoint.safetensors": "model.", "model.safetensors": ""}

# The module imports nothing of partrain, whose modules have other places in the other commit.
CUSTOM_MODULE = '''"""A network and a label family of a user's own."""

import torch
from torch import Generator, Tensor, nn


def build(width: int) -> nn.Module:
    hidden = [nn.Linear(784, width), nn.GELU(), nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 47))


class Ternary:
    def __init__(self, settings: object = None) -> None:  # Older commits pass their settings.
        pass

    def codes(self, num_classes: int, size: int, generator: Generator) -> Tensor:
        return torch.randint(-1, 2, (num_classes, size), generator=generator).float()
'''

SEED_MODULES = ("partrain/seeds.py", "partrain/rng.py")  # before and after the package's move into folders
PLANTED_CODE = '''

_derived = "derive_seed" if "derive_seed" in globals() else "derive"  # its name in older commits
_derive_unplanted = globals()[_derived]


def _derive_planted(seed: int, *names: str | int) -> int:
    """Return another seed for every stream."""
    return _derive_unplanted(seed, "planted", *names)


globals()[_derived] = _derive_planted
'''


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command line whose weights are compared."""

    name: str
    script: str = "train"
    """The script's name below experiments/, without .py."""
    settings: tuple[str, ...]
    """The settings besides `SMALL`, as the command line has them."""
    evidence: str = ""
    """A glob that matches a file of the run only if the run did what its name says. By default none is required."""


RUNS = (
    Run(name="mlp_k2", settings=(*MLP, "partition.segments=2")),
    Run(
        name="mlp_k3_sequential_recovery",
        settings=(*MLP, "partition.segments=3", "schedule=sequential", "schedule.recovery_epochs=1"),
    ),
    Run(name="cnn_k2", settings=(*CNN, "partition.segments=2")),
    Run(name="six_segments_packed", settings=(*MLP, "partition.segments=6", *PACKED), evidence=PACK_FILES),
    Run(
        name="four_seeds_packed",
        script="search",
        settings=(*MLP, "partition.segments=2", *PACKED, "search.method=grid", "seed=choice(0,1,2,3)"),
        evidence=PACK_FILES,
    ),
    Run(
        name="two_models_sharded",
        script="search",
        settings=("network.dropout=0.1", *SHARDED, "search.method=grid", "network.width=choice(192,256)"),
        evidence=SECOND_WORKER_FILES,
    ),
    Run(name="1f1b", settings=(*MLP, "partition.segments=2", "strategy=1f1b")),
    Run(name="data_parallel", settings=(*MLP, "partition.segments=2", "strategy=data_parallel")),
    Run(name="fully_sharded", settings=(*MLP, "partition.segments=2", "strategy=fully_sharded")),
    Run(  # brackets of 9, 5 and 3 configurations, the first with rungs of 1, 3 and 9 epochs
        name="hyperband_packed",
        script="search",
        settings=(
            *("network.dropout=0.1", "partition.segments=2", *PACKED, "train.epochs=9", "search.method=hyperband"),
            *("search.eta=3", "search.min_epochs=1", "search.metric=validation_loss"),
            *("train.lr=loguniform(1e-4,1e-2)", "network.width=choice(48,64)"),
        ),
        evidence=PACK_FILES,
    ),
    Run(name="mse_labels", settings=(*MLP, "partition.segments=2", "labels=uniform", "labels.loss=mse")),
    Run(
        name="custom_network",
        settings=(
            *("network=custom", "network.name=same_bits_custom:build", "+network.options.width=64"),
            "partition.at=[2]",
        ),
    ),
    Run(
        name="custom_labels",
        settings=(*MLP, "partition.segments=2", "labels=custom", "labels.name=same_bits_custom:Ternary"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """A checked-out commit, and the folders that its runs read and write."""

    name: str
    commit: str
    worktree: Path
    modules: Path
    """The folder of the custom modules."""
    runs: Path
    """The working directory of the runs, in which each has a folder of its own."""
    cache: Path
    """The folder of the prepared data."""

    def run_python(self, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run Python where `import partrain` finds the worktree's; return its exit code and what it printed."""
        self.runs.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join([str(self.worktree), str(self.modules)])
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.runs,
            env={**os.environ, "PYTHONPATH": paths, "PARTRAIN_CACHE": str(self.cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def main() -> None:
    """Compare the commits that the command line names, and exit with the verdict."""
    given = parse_arguments()
    runs = [run for run in RUNS if not given.only or run.name in given.only]

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by default it would leave the worktrees behind
    with tempfile.TemporaryDirectory(prefix="same_bits_") as folder, ExitStack() as worktrees:
        scratch = Path(folder).resolve()
        old = worktrees.enter_context(checked_out("OLD", given.old, scratch))
        new = make_new(given, old, scratch, worktrees)
        check_sides([old, new] if new else [old])

        expected = digest_twice(old, runs, scratch)
        if given.record:
            record(given.record, old, runs, expected)
        if new:
            sys.exit(report(expected, digest_side(new, runs), is_planted=given.plant))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments; end the script if they do not go together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="the commit whose weights are the right ones")
    parser.add_argument("new", metavar="NEW", nargs="?", help="the commit that must train the same weights")
    parser.add_argument("--plant", action="store_true", help="compare OLD with itself under other seeds")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the digests of OLD to FILE, as JSON")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[run.name for run in RUNS], help="do these runs")
    given = parser.parse_args()

    if given.plant and given.new:
        parser.error("--plant compares OLD with itself; leave NEW out")
    if not (given.plant or given.new or given.record):
        parser.error("there is nothing to do with OLD alone; give NEW, --plant or --record FILE")
    return given


# ---- the sides


@contextmanager
def checked_out(name: str, commit: str, scratch: Path) -> Iterator[Side]:
    """Check `commit` out into a worktree below `scratch`, which is removed again at the end."""
    folder = scratch / name.lower()
    modules = scratch / "modules"
    modules.mkdir(exist_ok=True)
    (modules / "same_bits_custom.py").write_text(CUSTOM_MODULE, encoding="utf-8")

    full_hash = git("rev-parse", "--verify", f"{commit}^{{commit}}")
    worktree = folder / "worktree"
    git("worktree", "add", "--detach", str(worktree), full_hash)
    try:
        yield Side(
            name=name,
            commit=full_hash,
            worktree=worktree,
            modules=modules,
            runs=folder / "runs",
            cache=folder / "cache",
        )
    finally:
        git("worktree", "remove", "--force", str(worktree))


def git(*arguments: str) -> str:
    """Run git in this script's repository and return what it printed; end the script if git fails."""
    outcome = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if outcome.returncode != 0:
        sys.exit(f"git {shlex.join(arguments)}: {outcome.stderr.strip()}")
    return outcome.stdout.strip()


def make_new(given: argparse.Namespace, old: Side, scratch: Path, worktrees: ExitStack) -> Side | None:
    """Return the side that is compared with OLD: the commit NEW, or OLD with planted seeds, or none."""
    if given.new:
        return worktrees.enter_context(checked_out("NEW", given.new, scratch))
    if not given.plant:
        return None

    planted = worktrees.enter_context(checked_out("PLANTED", given.old, scratch))
    plant(planted.worktree)
    # glyphs are drawn from derived seeds too; on the same images every difference is one of training
    return replace(planted, commit=f"{old.commit} with planted seeds", cache=old.cache)


def plant(worktree: Path) -> None:
    """Change the derivation of seeds in `worktree`, so that no random stream is the same."""
    modules = [worktree / name for name in SEED_MODULES if (worktree / name).exists()]
    if not modules:
        sys.exit(
            f"--plant: the commit has none of {', '.join(SEED_MODULES)}; name the module that derives seeds in SEED_MODULES"
        )
    with modules[0].open("a", encoding="utf-8") as module:
        module.write(PLANTED_CODE)


def check_sides(sides: Sequence[Side]) -> None:
    """Print the commit of each side and the partrain it imports; end the script if two sides are the same."""
    packages = {side.name: imported_package(side) for side in sides}
    for side in sides:
        print(f"{side.name}: commit {side.commit}, partrain imported from {packages[side.name]}", flush=True)

    if len(set(packages.values())) < len(sides):
        sys.exit("Both sides import the same partrain; a comparison with itself proves nothing.")
    if len({side.commit for side in sides}) < len(sides):
        sys.exit("OLD and NEW are the same commit; a comparison with itself proves nothing.")
    for side in sides:
        if packages[side.name] != side.worktree / "partrain":
            sys.exit(f"{side.name} imports another partrain than its worktree's, {side.worktree / 'partrain'}")


def imported_package(side: Side) -> Path:
    """Return the folder that `import partrain` reads in the side's runs."""
    outcome = side.run_python(["-c", "import partrain; print(partrain.__file__)"])
    if outcome.returncode != 0:
        sys.exit(f"{side.name} cannot import partrain:\n{outcome.stdout}")
    return Path(outcome.stdout.strip()).resolve().parent


# ---- the runs


def digest_twice(old: Side, runs: Sequence[Run], scratch: Path) -> dict[str, str | None]:
    """Do the runs of OLD twice; return the digest of each by name, or None where the two differ."""
    again = replace(old, name="OLD again", runs=scratch / "again" / "runs", cache=scratch / "again" / "cache")
    first, second = digest_side(old, runs), digest_side(again, runs)
    return {name: digest if second[name] == digest else None for name, digest in first.items()}


def digest_side(side: Side, runs: Sequence[Run]) -> dict[str, str]:
    """Do the runs one after another; return the digest of each by name, and that of the prepared data."""
    digests = {}
    for run in runs:
        digests[run.name] = digest_run(run, do_run(side, run))
        print(f"{side.name}: {run.name} {digests[run.name][:SHORT]}", flush=True)
    digests[DATA] = digest_data(side.cache)
    return digests


def do_run(side: Side, run: Run) -> Path:
    """Do the run and return its folder; end the script with the end of its output if it fails."""
    folder = side.runs / run.name
    command = [*command_in(side.worktree, run), f"hydra.run.dir={folder}"]
    outcome = side.run_python(command)
    if outcome.returncode != 0:
        end = "\n".join(outcome.stdout.splitlines()[-LINES_SHOWN:])
        sys.exit(
            f"{side.name}: {run.name} failed, exit code {outcome.returncode}:\npython {shlex.join(command)}\n{end}"
        )
    return folder


def command_in(worktree: Path, run: Run) -> list[str]:
    """Return the run's command line, after `python`, in the words of the worktree's commit.

    This is the place for a script or a setting that two commits spell differently: look here which spelling the
    worktree has, and translate.
    """
    settings: Sequence[str] = run.settings
    if not (worktree / "partrain" / "options.py").exists():
        settings = [words_before_options(word) for word in settings]
    if not (worktree / "conf" / "grouping").is_dir():
        settings = words_before_grouping(settings)
    return [str(worktree / "experiments" / f"{run.script}.py"), *SMALL, *settings]


def words_before_options(word: str) -> str:
    """Return a word as it was while a network of one's own had a builder, and labels a family."""
    for new, old in _OLD_NAMES.items():
        word = word.replace(new, old)
    return word


def words_before_grouping(words: Sequence[str]) -> list[str]:
    """Return `words` as they were while what is `grouping` now was a part of `launch`."""
    in_shards = "grouping=shards" in words
    old_words = []
    for word in words:
        name, _, value = word.partition("=")
        if in_shards and name.startswith("grouping."):
            old_words.append(f"launch.shards.{name.removeprefix('grouping.')}={value}")
        elif word not in ("grouping.trial=false",):
            old_words.append(_OLD_WORDS.get(word, word).replace("grouping.memory_gib=", "launch.pack_memory_gib="))
    return old_words


def digest_run(run: Run, folder: Path) -> str:
    """Return the SHA-256 of all weights that the run left in `folder`, and of a search's rungs.

    The script ends if something is missing, since a digest of nothing would equal another one of nothing.
    """
    weights, rungs = list(read_weights(folder)), list(read_rungs(folder))
    if not weights:
        sys.exit(f"{run.name} left no weights in {folder}")
    if run.script == "search" and not rungs:
        sys.exit(f"{run.name} left no rungs in {folder}")
    if run.evidence and not any(folder.glob(run.evidence)):
        sys.exit(f"{run.name} left no {run.evidence} in {folder}, so it did not train as its name says")

    digest = hashlib.sha256()
    for description, content in [*weights, *rungs]:
        digest.update(json.dumps(description, sort_keys=True).encode() + content)
    return digest.hexdigest()


def read_weights(folder: Path) -> Iterator[tuple[list[Any], bytes]]:
    """Yield (path, name, dtype, shape) and bytes of every weight in the checkpoints and stitched models of a run."""
    paths = [path for path in sorted(folder.rglob("*.safetensors")) if path.name in WEIGHT_FILES]
    for path in paths:
        for name, dtype, shape, content in read_tensors(path):
            if name.startswith(WEIGHT_FILES[path.name]):
                yield [path.relative_to(folder).as_posix(), name, dtype, shape], content


def read_tensors(path: Path) -> Iterator[tuple[str, str, list[int], bytes]]:
    """Yield name, dtype, shape and bytes of every tensor in a safetensors file, by name."""
    for name, tensor in sorted(safetensors.deserialize(path.read_bytes())):
        yield name, tensor["dtype"], tensor["shape"], bytes(tensor["data"])


def read_rungs(folder: Path) -> Iterator[tuple[list[Any], bytes]]:
    """Yield path and contents of every rung of a search, with scores and promotions, without its seconds."""
    for path in sorted(folder.glob("rungs/*.json")):
        rung = json.loads(path.read_text(encoding="utf-8"))
        del rung["seconds"]
        yield [path.relative_to(folder).as_posix(), rung], b""


def digest_data(cache: Path) -> str:
    """Return the SHA-256 of the prepared arrays in `cache`, with their names."""
    arrays = sorted(cache.rglob("*.npy"))
    if not arrays:
        sys.exit(f"The runs left no prepared data in {cache}")
    digest = hashlib.sha256()
    for path in arrays:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(cache).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


# ---- the verdict


def record(path: Path, old: Side, runs: Sequence[Run], digests: Mapping[str, str | None]) -> None:
    """Write the digests of OLD to `path`, null where OLD differs from itself, with the commands and the machine."""
    about = machine_facts()
    values = {
        "commit": old.commit,
        "machine": {key: about[key] for key in ("cpu", "cores", "torch", "python", "date")},
        "data": digests[DATA],
        "runs": {run.name: {"command": shown_command(old, run), "digest": digests[run.name]} for run in runs},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def shown_command(side: Side, run: Run) -> str:
    """Return the run's command as it is typed in the repository's root."""
    return shlex.join(["python", *command_in(side.worktree, run)]).replace(f"{side.worktree}/", "")


def report(expected: Mapping[str, str | None], found: Mapping[str, str], *, is_planted: bool) -> int:
    """Print the table of digests with verdicts; return the exit code, 0 where all is as it should be.

    Args:
        expected: The digests of OLD by row, None where OLD differs from itself.
        found: The digests of the other side.
        is_planted: Whether every run should differ, instead of none.
    """
    verdicts = {name: verdict(digest, found[name]) for name, digest in expected.items()}
    rows = [
        {"run": name, "OLD": (digest or "–")[:SHORT], "NEW": found[name][:SHORT], "verdict": verdicts[name]}
        for name, digest in expected.items()
    ]
    print(f"\n{markdown_table(rows)}\n")
    print(", ".join(f"{count} {each}" for each, count in Counter(verdicts.values()).items()))

    of_runs = [each for name, each in verdicts.items() if name != DATA]
    if is_planted:
        return 0 if set(of_runs) == {DIFFERENT} else 1
    return 0 if SAME in of_runs and DIFFERENT not in verdicts.values() else 1


def verdict(expected: str | None, found: str) -> str:
    """Return whether a digest is the expected one, which is None where OLD differs from itself."""
    if expected is None:
        return NO_PROOF
    return SAME if found == expected else DIFFERENT


if __name__ == "__main__":
    main()
