"""Runs of older versions: their config.yaml is read as the settings that mean the same today."""

from typing import Any


def upgrade_config(values: dict[str, Any]) -> dict[str, Any]:
    """Return the contents of a config.yaml in today's form.

    Before there was `grouping`, the group `launch` held packs and shards, and a strategy had a port.
    """
    launch, strategy = values.get("launch"), values.get("strategy")
    if "grouping" in values or not isinstance(launch, dict) or not isinstance(strategy, dict):
        return values
    return values | {
        "strategy": {name: value for name, value in strategy.items() if name != "port"},
        "grouping": _grouping(launch),
        "launch": {name: launch[name] for name in ("device", "threads", "max_restarts") if name in launch}
        | {"name": "local"},
    }


def _grouping(launch: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the grouping that the settings of an old `launch` describe."""
    if launch.get("name") == "shards":
        return {"name": "shards", **launch.get("shards", {})}
    if launch.get("pack", "never") == "never":
        return {"name": "alone"}
    return {"name": "pack", "trial": launch["pack"] == "auto", "memory_gib": launch.get("pack_memory_gib")}
