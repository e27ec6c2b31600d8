"""Networks: built without memory for their weights, traced to a chain of layers, and cut into segments.

PyTorch cuts a network only where its modules are nested; here it is cut wherever a single tensor crosses.
"""

from typing import Any

from partrain import checks
from partrain.networks.chain import Chain, Cut, Layer
from partrain.networks.cnn import CNNSettings
from partrain.networks.custom import CustomSettings
from partrain.networks.mlp import MLPSettings
from partrain.networks.torchvision_models import TorchvisionSettings

NetworkSettings = MLPSettings | CNNSettings | TorchvisionSettings | CustomSettings
"""The settings of any kind of network."""

NETWORKS: dict[str, type[NetworkSettings]] = {
    "mlp": MLPSettings,
    "cnn": CNNSettings,
    "torchvision": TorchvisionSettings,
    "custom": CustomSettings,
}
"""The class of settings for each kind of network."""


def network_settings_from_dict(values: dict[str, Any]) -> NetworkSettings:
    """Return the network's settings from the dictionary that `dataclasses.asdict` made of them.

    Raises:
        UserError: If the kind is unknown or a value is not allowed.
    """
    checks.one_of("network", values.get("kind"), NETWORKS)
    return NETWORKS[values["kind"]](**values)


__all__ = [
    "NETWORKS",
    "CNNSettings",
    "Chain",
    "CustomSettings",
    "Cut",
    "Layer",
    "MLPSettings",
    "NetworkSettings",
    "TorchvisionSettings",
    "network_settings_from_dict",
]
