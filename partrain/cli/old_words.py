"""The words of older versions' command lines: each is refused with the word that means the same today."""

from collections.abc import Sequence

from partrain.boundaries.labels import LABELS
from partrain.errors import UserError

_NEW_VALUES = {
    "labels.family": {name: f"labels={name}" for name in LABELS.classes},
    "launch": {"shards": "grouping=shards"},
    "launch.name": {"shards": "grouping=shards"},
    "launch.pack": {
        "never": "grouping=alone",
        "auto": "grouping=pack",
        "always": "grouping=pack grouping.trial=false",
    },
}
"""Today's words for some values of a setting, by its name."""

_NEW_NAMES = {
    "network.kind": "network",
    "network.builder": "network.name",
    "labels.family": "labels.name",
    "launch.pack": "grouping",
    "launch.pack_memory_gib": "grouping.memory_gib",
    "launch.shards": "grouping",
}
"""Today's names of settings, and of groups of settings."""

_GONE = {"strategy.port": "the processes of a strategy meet at any free port"}
"""Settings that are not needed any more, and why."""


def refuse_old_words(arguments: Sequence[str]) -> None:
    """Raise `UserError` if the arguments of a command have words of an older version."""
    messages = [message for argument in arguments if (message := describe_old_word(argument))]
    if messages:
        raise UserError(". ".join(messages))


def describe_old_word(word: str) -> str | None:
    """Return what to write instead of an old word, such as launch.pack=auto or launch.pack; None for any other word."""
    word = word.lstrip("+~")
    name, sign, value = word.partition("=")
    if name in _GONE:
        return f"{word} is not needed, since {_GONE[name]}; leave it out"
    new_words = {old: _NEW_VALUES.get(name, {}).get(old.strip(" '\"")) for old in value.split(",")}
    found = [f"{name}={old} is now {new}" for old, new in new_words.items() if new]
    if found:
        return f"{', '.join(found)}; use that instead"
    for old, new in _NEW_NAMES.items():
        if name == old or name.startswith(f"{old}."):
            return f"{word} is now {new}{name.removeprefix(old)}{sign}{value}; use that instead"
    return None
