"""Networks: built without memory for their weights, traced to a chain of layers, and cut into segments.

PyTorch cuts a network only where its modules are nested; here it is cut wherever a single tensor crosses.
"""

from partrain.networks.chain import Chain, Cut, Layer
from partrain.networks.cnn import CNN
from partrain.networks.custom import CustomNetwork
from partrain.networks.mlp import MLP
from partrain.networks.settings import NetworkSettings
from partrain.networks.torchvision_models import TorchvisionModel
from partrain.options import Options

NETWORKS: Options[NetworkSettings] = Options(
    NetworkSettings, {"mlp": MLP, "cnn": CNN, "torchvision": TorchvisionModel, "custom": CustomNetwork}
)
"""The settings of each kind of network."""

__all__ = ["CNN", "MLP", "NETWORKS", "Chain", "CustomNetwork", "Cut", "Layer", "NetworkSettings", "TorchvisionModel"]
