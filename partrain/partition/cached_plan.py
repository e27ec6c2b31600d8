"""Plans of built-in networks in the cache. Making one imports PyTorch's compiler, which takes about a second.

A plan depends on its settings, the versions of the libraries and the code of this package alone, which its file's name
is a digest of. No file's name can tell that a user's own network was edited: its plan is made anew every time.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from partrain.data.settings import cache_folder
from partrain.errors import UserError
from partrain.networks import CNN, MLP, NetworkSettings, TorchvisionModel
from partrain.partition.plan import PartitionSettings, Plan, make_plan

_BUILT_IN = (MLP, CNN, TorchvisionModel)
_PLANS = "plans"
_CODE = ("networks", "partition")
"""The folders of this package whose code decides a plan."""


def cached_plan(
    network: NetworkSettings, input_shape: Sequence[int], num_classes: int, settings: PartitionSettings, batch_size: int
) -> Plan:
    """Return what `make_plan` returns for the same arguments, from the cache if it is there.

    Raises:
        UserError: If the network cannot be cut so. The message names the setting.
    """
    if type(network) not in _BUILT_IN:
        return make_plan(network, input_shape, num_classes, settings, batch_size)
    cuts = asdict(replace(settings, dry_run=False))
    described = [asdict(network), list(input_shape), num_classes, cuts, batch_size, _code_digest()]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / _PLANS / f"{digest[:32]}.json"
    plan = _read(path)
    if plan is None:
        plan = make_plan(network, input_shape, num_classes, settings, batch_size)
        with suppress(OSError):  # A cache that cannot be written to costs time only.
            plan.write(path, sync=False)
    return plan


def _read(path: Path) -> Plan | None:
    """Return the plan in a file, or None if there is none that can be read."""
    try:
        return Plan.read(path)
    except (OSError, UserError):
        return None


@cache
def _code_digest() -> str:
    """Return a digest of the code that decides a plan: this package's, and the versions of the libraries."""
    digest = hashlib.sha256()
    for library in ("torch", "torchvision"):
        digest.update(f"{library} {version(library)} ".encode())
    package = Path(__file__).parents[1]
    for file in sorted(file for folder in _CODE for file in (package / folder).glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
