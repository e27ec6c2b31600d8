"""The start of a training, done once in a process that forks others, so that those need not do it each.

There is no backward pass, since PyTorch's autograd may start threads for it, which a forked process would lack.
"""

import importlib

import torch
from torch import nn

from partrain.device import may_have_accelerator
from partrain.networks.deferred import materialise, record_network
from partrain.rng import unchanged_torch
from partrain.training.optimization import TrainSettings, make_optimizer


def warm_up() -> None:
    """Import what trainings need, and build a small network and take a step, if no accelerator would be initialised."""
    importlib.import_module("torch._dynamo")  # PyTorch puts it off until the first optimiser is made.
    importlib.import_module("partrain.training.segment")
    torch.set_num_threads(1)
    if may_have_accelerator():  # Recording a network asks for the devices.
        return
    cpu = torch.device("cpu")
    with unchanged_torch(cpu):
        network, tape = record_network(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
        materialise(network, tape, seed=0, device=cpu)
        optimizer = make_optimizer(network.parameters(), TrainSettings(), 0.0)
        network(torch.zeros(4, 8))
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
