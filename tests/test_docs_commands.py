"""Commands and code blocks of README.md and docs/ are right: each is run, composed and planned, or marked as not run.

A block is marked by a comment right above it, `<!-- not run: why -->`.
"""

import ast
import itertools
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from scripting import ROOT

import partrain
from partrain.cli.config import (
    grid_settings,
    hydra_words,
    register_schemas,
    run_settings,
    search_settings,
    split_search_arguments,
)
from partrain.data import Dataset
from partrain.settings import RunSettings
from partrain.shards.makespans import SimulateSettings

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LANGUAGES = {"sh", "python", "text", "yaml"}
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A code block of a page; `reason` says why it is not run, or is empty."""

    page: str
    language: str
    text: str
    reason: str


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    found = BLOCK.finditer(page.read_text())
    return [Block(page.name, part["language"], part["text"], part["reason"] or "") for part in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def commands_of(block: Block) -> list[str]:
    """Return the commands of a shell block, each on one line, with a word in place of <a placeholder>."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [re.sub(r"<[^>]*>", "folder", line) for line in joined.splitlines() if line.strip()]


SHELL_BLOCKS = [block for block in BLOCKS if block.language == "sh" and not block.reason]
COMMANDS = list(dict.fromkeys((block.page, command) for block in SHELL_BLOCKS for command in commands_of(block)))
PYTHON_BLOCKS = [block for block in BLOCKS if block.language == "python"]
PYTHON_PAGES = sorted({block.page for block in PYTHON_BLOCKS if not block.reason})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_has_a_language(page: Path) -> None:
    """No block escapes the other tests."""
    assert {block.language for block in blocks_of(page)} <= LANGUAGES
    outside = BLOCK.sub("", page.read_text())
    assert "```" not in outside
    assert not re.findall(r"\n\n {4}\S.*", outside)


def test_no_line_of_the_readme_is_longer_than_120_characters() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if len(line) > 120] == []


# ---- Shell commands.


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """600 training and 94 test images in the format of the built-in data set, which takes longer to draw."""
    random = np.random.default_rng(0)
    arrays = [
        array for count in (600, 94) for array in (random.integers(0, 256, (count, 28, 28)), np.arange(count) % 47)
    ]
    parts = [arrays[0].astype(np.uint8), arrays[1], arrays[2].astype(np.uint8), arrays[3]]
    return Dataset.from_arrays(*parts, folder=tmp_path_factory.mktemp("images") / "data")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, with the modules that the pages show."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in PYTHON_BLOCKS:
        if name := re.match(r"# (\w+\.py), in the working directory\n", block.text):
            (tmp_path / name[1]).write_text(block.text)


def test_a_command_that_is_not_checked_fails(images: Dataset) -> None:
    for command in ("ls", ".venv/bin/python experiments/claims/shards/shards.py", "make cake"):
        with pytest.raises(AssertionError):
            check(command, images)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
@pytest.mark.usefixtures("modules")
def test_a_command_is_composed_and_planned(page: str, command: str, images: Dataset) -> None:
    check(command, images)


def check(command: str, images: Dataset) -> None:
    """Compose the command's settings, and plan what it would train where its data are built in."""
    match shlex.split(command, comments=True):
        case ["make", target, *rest]:
            targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert target in targets
            arguments = [word.removeprefix("ARGS=") for word in rest if word.startswith("ARGS=")]
            if target == "train":
                check_script("train", shlex.split(" ".join(arguments)), images)
        case [".venv/bin/partrain", name, *rest] if name in CHECKS:
            check_script(name, rest, images)
        case _:
            raise AssertionError(f"{command}: neither run, composed nor marked as not run")


def check_script(name: str, arguments: Sequence[str], images: Dataset) -> None:
    """Check the command partrain <name> for every combination of values that it sweeps over."""
    words, space = split_search_arguments(arguments) if name == "search" else (arguments, [])
    flags = ("-m", "--multirun", "--help")
    words = [word for word in hydra_words(words) if word not in flags and not word.startswith("hydra.")]
    register_schemas()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for overrides in combinations(words):
            CHECKS[name](compose(name, overrides), list(space), images)


def combinations(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield the overrides of every run of a multirun, or the only ones."""
    parser = OverridesParser.create()
    choices = []
    for override in map(parser.parse_override, words):
        key, line = override.get_key_element(), override.input_line or ""
        is_sweep = override.is_sweep_override()
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()] if is_sweep else [line])
    return (list(chosen) for chosen in itertools.product(*choices))


def dry(settings: RunSettings) -> RunSettings:
    """Return `settings` that plan and train nothing."""
    return replace(settings, partition=replace(settings.partition, dry_run=True))


def check_train(config: DictConfig, space: list[str], images: Dataset) -> None:
    settings = run_settings(config)
    if settings.data.name == "glyphs" and config.resume is None:
        assert partrain.run(dry(settings), tempfile.mkdtemp(dir="."), dataset=images)["segments"]


def check_search(config: DictConfig, space: list[str], images: Dataset) -> None:
    settings, shared = search_settings(config, space), run_settings(config)
    if shared.data.name == "glyphs" and settings.space:
        assert partrain.search(dry(shared), settings, tempfile.mkdtemp(dir="."), dataset=images) == {}


def check_compare(config: DictConfig, space: list[str], images: Dataset) -> None:
    grid, shared = grid_settings(config), run_settings(config)
    if shared.data.name == "glyphs":
        assert partrain.compare(dry(shared), grid, tempfile.mkdtemp(dir="."), dataset=images) == []


def check_evaluate(config: DictConfig, space: list[str], images: Dataset) -> None:
    assert not OmegaConf.is_missing(config, "run")


def check_simulate(config: DictConfig, space: list[str], images: Dataset) -> None:
    settings = OmegaConf.to_object(config)
    assert isinstance(settings, SimulateSettings)
    assert settings.costs


CHECKS = {
    "train": check_train,
    "search": check_search,
    "compare": check_compare,
    "evaluate": check_evaluate,
    "simulate": check_simulate,
}


# ---- Python blocks.


@pytest.mark.parametrize("page", sorted({block.page for block in PYTHON_BLOCKS}))
def test_python_blocks_use_public_names_only(page: str) -> None:
    tree = ast.parse("\n".join(block.text for block in PYTHON_BLOCKS if block.page == page))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    assert [node.module for node in imports if node.module and node.module.startswith("partrain.")] == []
    imported = {alias.name for node in imports if node.module == "partrain" for alias in node.names}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id == "partrain"}
    assert imported | used <= set(partrain.__all__)


def tiny_settings(**changed: Any) -> RunSettings:
    """Return settings of a run that ends within seconds, where a page's code does not set others."""
    defaults: dict[str, Any] = {
        "data": partrain.Glyphs(limit_train=600, limit_test=200),
        "network": partrain.MLP(depth=3, width=16),
        "train": partrain.TrainSettings(epochs=1, batch_size=100),
        "launch": partrain.Local(device="cpu", threads=1),
        "report": partrain.ReportSettings(page=False),
    }
    return RunSettings(**{**defaults, **changed})


@pytest.mark.parametrize("page", PYTHON_PAGES)
@pytest.mark.usefixtures("modules")
def test_python_blocks_of_a_page_run_one_after_another(page: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the page, with the names of the blocks before, with small settings, beside a finished run."""
    shutil.copytree(run, Path("runs", "first"))
    monkeypatch.setattr(partrain, "RunSettings", tiny_settings)
    names: dict[str, Any] = {"__name__": f"blocks_of_{Path(page).stem}"}
    monkeypatch.setitem(sys.modules, names["__name__"], sys.modules[__name__])
    for block in PYTHON_BLOCKS:
        if block.page == page and not block.reason:
            exec(compile(block.text, page, "exec"), names)
