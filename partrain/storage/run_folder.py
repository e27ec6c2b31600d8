"""The names of all files and folders of a run and its trainings."""

from pathlib import Path

# ---- In a run's folder.

CONFIG = "config.yaml"
SWEEP_JOB = "sweep_job.json"
PLAN = "plan.json"
RESULTS = "results.json"
EVALUATION = "evaluation.json"
ACCURACY_CURVE = "accuracy_curve.json"
CONFUSION_PLOT = "confusion.png"
CURVES_PLOT = "curves.png"
PER_CLASS_PLOT = "per_class.png"
PAGE = "report.html"

SEGMENTS = "segments"  # The trainings of segments, by number.
RANKS = "ranks"  # The trainings of the processes of a strategy's group, by number.
RECOVERY = "recovery"  # The training of the stitched network.
BOUNDARIES = "boundaries"  # Outputs stored for the next segment, while the run trains.
PACKS = "packs"  # The folders of packs.
SHARDS = "shards"  # The folders of sharded trainings.

MODEL_FOLDER = "model"
MODEL_WEIGHTS = f"{MODEL_FOLDER}/model.safetensors"
MODEL_CARD = f"{MODEL_FOLDER}/model.json"

TIMING = "timing.json"  # In segments/, ranks/ and recovery/: seconds, over all starts of the run.

# ---- In a training's folder.

TASK_FILE = "task.json"
CHECKPOINT = "checkpoint.safetensors"
# The checkpoint before, of a group's process or of a pack's member: others may be one checkpoint behind.
PREVIOUS_CHECKPOINT = "previous.safetensors"
EPOCHS_FOLDER = "epochs"  # Weights after epochs, with train.accuracy_curve or at a pause.
METRICS = "metrics.csv"
PROGRESS = "progress.json"
THREADS_FILE = "threads"
ERROR_FILE = "error.json"
LOG = "log.txt"
LOCK = "lock"
TENSORBOARD = "tensorboard"

# ---- In a job's folder, which is the training's own where the job is of one training alone.

JOB_FILE = "job.json"
MESSAGES = "messages.txt"  # Lines for people, which the launcher shows.
RENDEZVOUS = "rendezvous.json"  # Of a gang's first process: where the others find it.

# ---- In the folder of a pack, or of trainings in shards.

PACK_FILE = "pack.json"  # Of packs of earlier versions.
ROUND_FILE = "round.json"  # Which checkpoints of a pack's members belong together.
PACK_LIST = "packs.json"  # In the folder of packs: their names.
PACK_TRIAL = "trial"  # In the folder of packs: the job that measures stacks.
TIMINGS = "timings.json"  # Of such a job.
TRIAL_COPIES = "copies"  # Of such a job, while it runs: the trainings that it measures and throws away.
SCORES = "scores.json"  # Of a job that scores trials of a search.
TIMELINE = "timeline.csv"
COSTS = "costs.json"
WORKER_LOGS = "workers"

# ---- The file that marks the folder of a search or of a comparison.

SEARCH_MANIFEST = "search.json"
GRID_MANIFEST = "grid.json"


def segment_name(index: int) -> str:
    """Return the name of segment `index`'s task: its folder within the run's."""
    return f"{SEGMENTS}/{index}"


def rank_name(index: int) -> str:
    """Return the name of the task of a group's process number `index`: its folder within the run's."""
    return f"{RANKS}/{index}"


def stored_outputs(boundary: int) -> str:
    """Return the file of the outputs stored at `boundary`, relative to a segment's folder."""
    return f"../../{BOUNDARIES}/{boundary}.safetensors"


def epoch_weights(training: Path, epoch: int) -> Path:
    """Return the file of the weights that the training in folder `training` had after `epoch` epochs."""
    return training / EPOCHS_FOLDER / f"{epoch}.safetensors"
