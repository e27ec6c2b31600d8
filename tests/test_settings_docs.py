"""Every setting has one sentence: below its field in the source, above its key in `conf/`, and in docs/settings.md."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import settings_page
import yaml
from scripting import ROOT
from settings_page import sentences

from partrain.cli.config import EvaluateConfig
from partrain.comparison.grid import GridSettings
from partrain.options import Settings, field_defaults, field_types
from partrain.settings import GROUPS, RunSettings
from partrain.shards.makespans import SimulateSettings
from partrain.tuning.settings import SearchSettings

CONF = ROOT / "conf"
BESIDES: dict[str, type] = {"search": SearchSettings, "grid": GridSettings}
ONLY_IN_CONF = {"resume", "objective", *BESIDES}  # They need a comment, and no field says which.
HYDRAS_OWN = {"defaults", "hydra"}
FILES = sorted(path for path in CONF.rglob("*.yaml") if "hydra" not in path.relative_to(CONF).parts)


def settings_classes() -> list[type]:
    """Return all classes of settings."""

    def below(settings: type) -> Iterator[type]:
        for subclass in settings.__subclasses__():
            yield subclass
            yield from below(subclass)

    return [*dict.fromkeys(below(Settings)), EvaluateConfig, SimulateSettings]


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
            found[number] = " ".join(f"{above} {beside[1] if beside else ''}".split())
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


def owner_of(file: Path) -> type:
    """Return the class whose fields a file of `conf/` sets."""
    group = file.relative_to(CONF).parts[0]
    if group in GROUPS:
        return GROUPS[group].classes[file.stem]
    return {"evaluate.yaml": EvaluateConfig, "simulate.yaml": SimulateSettings}.get(group, RunSettings)


def expected(path: tuple[str, ...], owner: type) -> str | None:
    """Return the sentence of the setting that `path` leads to from the class `owner`; None for one of `ONLY_IN_CONF`."""
    first, *rest = path
    if not rest:
        return None if owner is RunSettings and first in ONLY_IN_CONF else sentences(owner)[first]
    if owner is RunSettings and first in BESIDES:
        return sentences(BESIDES[first])[rest[0]]
    if first in GROUPS:  # An experiment sets it in whichever option it chooses.
        owners = [option for option in GROUPS[first].classes.values() if rest[0] in field_types(option)]
        return sentences(owners[0])[rest[0]]
    return sentences(field_types(owner)[first])[rest[0]]


def test_every_field_of_every_settings_class_has_a_sentence() -> None:
    texts = {
        f"{owner.__name__}.{name}": text for owner in settings_classes() for name, text in sentences(owner).items()
    }
    assert len(texts) > 100
    assert [name for name, text in texts.items() if not text] == []


def test_sentences_begin_with_a_capital_end_with_a_full_stop_and_are_short() -> None:
    texts = [text for owner in settings_classes() for text in sentences(owner).values() if text]
    assert [text for text in texts if not re.fullmatch(r"[A-Z].*\.", text)] == []
    assert [part for text in texts for part in re.split(r"[.;] ", text) if len(part.split()) > 27] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_key_in_conf_has_the_sentence_of_its_field_as_its_comment(file: Path) -> None:
    differing = {}
    for path, comment in keys(file.read_text()):
        sentence = expected(path, owner_of(file))
        if not comment or (sentence is not None and comment != sentence):
            differing[".".join(path)] = (comment, sentence)
    assert differing == {}


@pytest.mark.parametrize("group", GROUPS)
def test_the_file_of_an_option_has_all_its_settings_with_their_defaults(group: str) -> None:
    for option, settings in GROUPS[group].classes.items():
        values = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
        assert {name: value for name, value in values.items() if name != "defaults"} == field_defaults(settings)


def test_the_page_of_all_settings_is_what_its_script_writes() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page()


def test_a_changed_word_is_seen() -> None:
    """The comparison reads the comment that belongs to the key, wrapped or not."""
    text = "# Of the file.\n\npart:\n  # One sentence,\n  # wrapped.\n  key: 1\n  other: 2  # Beside.\n  third: 3\n"
    assert dict(keys(text)) == {
        ("part",): "",
        ("part", "key"): "One sentence, wrapped.",
        ("part", "other"): "Beside.",
        ("part", "third"): "",
    }
