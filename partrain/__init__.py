"""partrain trains neural networks in independent pieces: cut, train every segment on its own, stitch."""

from partrain.data.batches import normalise
from partrain.evaluate import Evaluation, evaluate
from partrain.multi.shards.driver import ShardedTraining
from partrain.multi.shards.settings import ShardSettings
from partrain.multi.shards.train import train_sharded
from partrain.multi.together import run_together
from partrain.multi.unify import unify
from partrain.prepared import prepare_run
from partrain.run import run
from partrain.settings import RunSettings
from partrain.stitch import load

__all__ = [
    "Evaluation",
    "RunSettings",
    "ShardSettings",
    "ShardedTraining",
    "evaluate",
    "load",
    "normalise",
    "prepare_run",
    "run",
    "run_together",
    "train_sharded",
    "unify",
]
