"""What documents name is there: files and folders of the repository, modules, and public names in examples."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from scripting import ROOT

import partrain

DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").rglob("README.md"))
)
HOLDERS = ("partrain", "tests", "experiments", "conf", "docs")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"(?<![\w/.<-])((?:partrain|tests|experiments|conf|docs)/[\w./-]*\w)", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_by_their_last_part_are_there(document: str) -> None:
    """`launch/worker.py`, `stack.py`, `shards/`: wherever in the repository that is."""
    there = [f"/{path.relative_to(ROOT)}" for name in HOLDERS for path in (ROOT / name).rglob("*")]
    named = set(re.findall(r"`((?:\w+/)*\w+(?:/|\.py))`", (ROOT / document).read_text()))
    found = {name for name in named if any(path.endswith(f"/{name.rstrip('/')}") for path in there)}
    assert named - found - {f"{name}/" for name in HOLDERS} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", (ROOT / document).read_text())
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_that_examples_import_are_public(document: str) -> None:
    text = (ROOT / document).read_text()
    imported = {name for line in re.findall(r"from partrain import ([\w, ]+)", text) for name in line.split(", ")}
    used = set(re.findall(r"\bpartrain\.(\w+)\(", text))
    assert imported | used <= set(partrain.__all__)
    assert not re.findall(r"(?:from|import) partrain\.\w+", text)


def test_the_layers_page_lists_every_module_in_the_order_that_is_checked() -> None:
    table = (ROOT / "docs/architecture.md").read_text().partition("| layer |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", row.replace("\\|", "").split("|")[1]) for row in table.splitlines()[2:]]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert rows == [re.findall(r"\w+", layer) for layer in contracts[0]["layers"]]


def test_modules_that_are_named_can_be_found() -> None:
    for document in DOCUMENTS:
        for name in set(re.findall(r"python -m (partrain[\w.]*)", (ROOT / document).read_text())):
            assert importlib.util.find_spec(f"{name}.__main__") is not None, (document, name)


WALKS = dict(re.findall(r"^### (.+)\n\n((?:\|.*\n)+)", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE))


def functions_in(path: Path) -> set[str]:
    """Return the names of a file's functions, and of its classes' methods as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return names


def test_the_architecture_page_has_five_walks() -> None:
    assert len(WALKS) == 5


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_has_at_most_six_files_none_twice_with_functions_that_exist(walk: str) -> None:
    rows = [row.split("|")[1:4] for row in WALKS[walk].splitlines()[2:]]
    files = [re.fullmatch(r" `(partrain/[\w/]+\.py)` ", file)[1] for file, _, _ in rows]  # type: ignore[index]
    assert 1 < len(files) <= 6
    assert len(set(files)) == len(files)
    for file, (_, functions, remark) in zip(files, rows, strict=True):
        names = set(re.findall(r"`([\w.]+)`", functions))
        assert names
        assert names <= functions_in(ROOT / file), file
        assert remark.strip()
