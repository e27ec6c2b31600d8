"""Every setting has one sentence: below its field in the source, and the same one above its key in `conf/`."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripting import ROOT

CONF = ROOT / "conf"
RUN = "RunSettings"
NETWORKS = ("mlp", "cnn", "torchvision", "custom")
# What the keys of a file in conf/ set, by the file's place: a class, and other classes for some of the file's parts.
CLASSES = {
    "train.yaml": RUN,
    "search.yaml": RUN,
    "compare.yaml": RUN,
    "evaluate.yaml": "EvaluateConfig",
    "simulate.yaml": "SimulateSettings",
    "experiment/*.yaml": RUN,
    "data/*.yaml": "DataSettings",
    "labels/*.yaml": "LabelSettings",
    "grouping/alone.yaml": "AloneSettings",
    "grouping/pack.yaml": "PackSettings",
    "grouping/shards.yaml": "ShardSettings",
    "launch/*.yaml": "LaunchSettings",
    "schedule/*.yaml": "ScheduleSettings",
    "strategy/*.yaml": "StrategySettings",
    "network/mlp.yaml": "MLPSettings",
    "network/cnn.yaml": "CNNSettings",
    "network/torchvision.yaml": "TorchvisionSettings",
    "network/custom.yaml": "CustomSettings",
}
BESIDES = {"search": "SearchSettings", "grid": "GridSettings"}
ONLY_IN_CONF = {"resume", *BESIDES}  # They need a comment, and no field says which.
HYDRAS_OWN = {"defaults", "hydra"}


@dataclass(frozen=True)
class Field:
    """A field of a settings dataclass: its annotation, and the string literal below it."""

    annotation: str
    sentence: str


@cache
def settings_classes() -> dict[str, dict[str, Field]]:
    """Return the fields of every dataclass of settings in the package, by class and name."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "partrain").rglob("*.py"))]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {
        node.name: dict(fields_of(node)) for node in classes if re.fullmatch(r"\w*Settings|EvaluateConfig", node.name)
    }


def fields_of(node: ast.ClassDef) -> Iterator[tuple[str, Field]]:
    """Yield name and field for every annotated attribute of a class; the sentence is empty where there is none."""
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign):
            continue
        assert isinstance(statement.target, ast.Name)
        value = following.value if isinstance(following, ast.Expr) else None
        sentence = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
        yield statement.target.id, Field(ast.unparse(statement.annotation), unwrap(sentence))


def unwrap(text: str) -> str:
    """Return `text` on one line, with single spaces."""
    return " ".join(text.split())


def comments(text: str) -> dict[int, str]:
    """Return the comment of every line of a YAML file that has a key, by line number from 0.

    It is the block of comment lines right above the key, with the key's indentation, and what is beside the key.
    """
    found, above = {}, ""
    for number, line in enumerate(text.splitlines()):
        if re.fullmatch(r" *#.*", line):
            above += line.strip().removeprefix("#")
        elif re.match(r" *[\w-]+:", line):
            beside = re.search(r"(?:^|\s)#(.*)", line)
            found[number] = unwrap(f"{above} {beside[1] if beside else ''}")
            above = ""
        else:
            above = ""
    return found


def keys(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every key of a YAML file as the path to it, with its comment."""
    said = comments(text)

    def below(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        for key, value in node.value:
            if not path and key.value in HYDRAS_OWN:
                continue
            yield (*path, key.value), said[key.start_mark.line]
            if isinstance(value, yaml.MappingNode):
                yield from below(value, (*path, key.value))

    yield from below(yaml.compose(text), ())


def expected(path: tuple[str, ...], owner: str, classes: Mapping[str, Mapping[str, Field]]) -> str | None:
    """Return the sentence of the setting that `path` leads to from the class `owner`; None for one of `ONLY_IN_CONF`."""
    first, *rest = path
    if owner == RUN and first in ONLY_IN_CONF:
        return expected(tuple(rest), BESIDES[first], classes) if rest else None
    field = classes[owner][first]
    return expected(tuple(rest), field.annotation, classes) if rest else field.sentence


def owner_of(file: Path) -> str:
    """Return the class whose fields a file of `conf/` sets."""
    return next(owner for pattern, owner in CLASSES.items() if file.relative_to(CONF).match(pattern))


FILES = sorted(path for path in CONF.rglob("*.yaml") if "hydra" not in path.relative_to(CONF).parts)


def test_every_field_of_every_settings_class_has_a_sentence() -> None:
    classes = settings_classes()
    assert {RUN, *CLASSES.values(), *BESIDES.values()} <= set(classes)
    sentences = {f"{owner}.{name}": field.sentence for owner in classes for name, field in classes[owner].items()}
    assert [name for name, sentence in sentences.items() if not sentence] == []


def test_sentences_begin_with_a_capital_end_with_a_full_stop_and_are_short() -> None:
    sentences = [field.sentence for fields in settings_classes().values() for field in fields.values()]
    assert [text for text in sentences if not re.fullmatch(r"[A-Z].*\.", text)] == []
    assert [part for text in sentences for part in re.split(r"[.;] ", text) if len(part.split()) > 27] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_in_conf_has_the_sentence_of_its_field_as_its_comment(file: Path) -> None:
    classes = settings_classes()
    differing = {}
    for path, comment in keys(file.read_text()):
        sentence = expected(path, owner_of(file), classes)
        if not comment or (sentence is not None and comment != sentence):
            differing[".".join(path)] = (comment, sentence)
    assert differing == {}


def test_a_changed_word_is_seen() -> None:
    """The comparison reads the comment that belongs to the key, wrapped or not."""
    text = "# Of the file.\n\npart:\n  # One sentence,\n  # wrapped.\n  key: 1\n  other: 2  # Beside.\n  third: 3\n"
    assert dict(keys(text)) == {
        ("part",): "",
        ("part", "key"): "One sentence, wrapped.",
        ("part", "other"): "Beside.",
        ("part", "third"): "",
    }
