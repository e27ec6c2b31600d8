"""Networks: built without memory, traced to a chain of layers, cut into segments."""

from typing import Any

from partrain import checks
from partrain.networks.chain import Chain, Cut, Layer
from partrain.networks.cnn import CNNSettings
from partrain.networks.custom import CustomSettings
from partrain.networks.mlp import MLPSettings
from partrain.networks.torchvision_models import TorchvisionSettings

NetworkSettings = MLPSettings | CNNSettings | TorchvisionSettings | CustomSettings

NETWORKS: dict[str, type[NetworkSettings]] = {
    "mlp": MLPSettings,
    "cnn": CNNSettings,
    "torchvision": TorchvisionSettings,
    "custom": CustomSettings,
}


def network_settings_from_dict(values: dict[str, Any]) -> NetworkSettings:
    """The settings that `dataclasses.asdict` made `values` from."""
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
