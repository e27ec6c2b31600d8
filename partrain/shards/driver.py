"""`ShardedTraining`: shard parallelism from tasks to trained models (arXiv 2110.08633).

This process holds every model in host memory and the schedule, and one worker process per device computes units. Between
them travel only shards, the tensors that cross between shards, and a few numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from partrain.shards.admission import Admission, CandidateQueue
from partrain.shards.host import HostMemory
from partrain.shards.policies import POLICIES, Policy
from partrain.shards.preparation import ModelPreparer
from partrain.shards.scheduler import Scheduler
from partrain.shards.session import CheckpointWriter, Session, TrainingHistory
from partrain.shards.settings import Shards
from partrain.shards.simulator import write_loads
from partrain.shards.timeline import TimelineWriter
from partrain.shards.view import TrainingView
from partrain.shards.worker_pool import WorkerPool, resolve_devices, worker_settings
from partrain.storage.checkpoint import remove_partial_files
from partrain.storage.lock import LockSet
from partrain.storage.run_folder import COSTS, WORKER_LOGS
from partrain.training.context import LocalContext, TrainingContext, stop_on_signals


class ShardedTraining:
    """A training of many models at once, whose shards are interleaved over the devices. Models may join and leave.

    Args:
        devices: The device of each worker process by its name, or `cpu` once for each worker.
        folder: The folder for the time line, the measured costs and the workers' logs.
        settings: The settings of shard parallelism; by default those of `Shards()`.
        policy: The scheduling policy, in place of the one that the settings name.
        threads: The CPU threads of each worker; by default an equal share of the cores.
        max_restarts: How often each worker is replaced when it is lost, before training fails.
        processes: Whether workers are forked or started anew, the setting `launch.processes`.
        seed: The seed of a policy that draws random numbers.
        show_progress: Whether progress is printed.
        context: The context of the job that this training is. By default Ctrl-C and SIGTERM request a stop.
        view: The view of the models, by default one on the console.
        on_poll: A function that is called between rounds of units. It may call `add`.
    """

    def __init__(
        self,
        devices: Sequence[str],
        folder: str | Path,
        settings: Shards | None = None,
        *,
        policy: Policy | None = None,
        threads: int | None = None,
        max_restarts: int = 3,
        processes: str = "auto",
        seed: int = 0,
        show_progress: bool = True,
        context: TrainingContext | None = None,
        view: TrainingView | None = None,
        on_poll: Callable[[], None] | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.settings = settings or Shards()
        self._max_restarts, self._processes = max_restarts, processes
        self._workers = worker_settings(resolve_devices(devices), self.settings, threads)
        self._context = context
        self._view = view or TrainingView(self.folder, show_progress=show_progress)
        self._on_poll = on_poll or (lambda: None)
        self._history = TrainingHistory()
        self._candidates = CandidateQueue(self.folder, self._history.failures)
        self._scheduler = Scheduler(
            len(devices),
            policy or POLICIES[self.settings.policy](seed),
            pins_backward=self.settings.activations == "keep",
            double_buffer=self.settings.double_buffer,
        )

    @property
    def failures(self) -> dict[Path, str]:
        """Return the error message of each model that failed, by its task's folder."""
        return self._history.failures

    def add(self, task: str | Path, pause_after: int | None = None, name: str | None = None) -> None:
        """Let the model of a task join, from its checkpoint if it has one.

        It may be called before `run`, and from any thread while that is under way. Once the last model has left, it is
        refused until `run` has returned; a model that is added after that is trained when `run` is called again.

        Args:
            task: The task's folder.
            pause_after: The epoch after which the model pauses; by default it trains to its end.
            name: The name that is shown of the model; by default the folder's path.

        Raises:
            UserError: If the folder holds no task, is in training already, or has `train.compile`, which shards cannot
                do. If `pause_after` is below 1. If the training has ended.
        """
        self._candidates.add(task, pause_after, name)

    def run(self, on_leave: Callable[[Path], None] | None = None) -> None:
        """Train all models that have been added, or are added meanwhile. It may be called again for others.

        Args:
            on_leave: A function that is called with the task's folder of every model that ends, pauses or fails. It may
                call `add`.

        Raises:
            UserError: If there is no model, or any of the first ones or all of them together do not fit. If another
                launcher uses the folder.
            JobFailed: If a worker was lost too often.
            KeyboardInterrupt: If a stop was requested (Ctrl-C). The steps under way have ended, and every model has
                written its checkpoint.
        """
        context = self._context or LocalContext(self._workers[0].device)
        try:
            with (
                self._locked() as locks,
                closing(HostMemory(self.folder, on_disk=self.settings.spill_to == "disk")) as host,
            ):
                with self._view:
                    self._train(host, locks, context, on_leave or (lambda folder: None))
                self._write_costs()
                self._view.write_page()
        finally:
            self._candidates.reopen()
        if context.should_stop():
            raise KeyboardInterrupt

    def _train(
        self, host: HostMemory, locks: LockSet | None, context: TrainingContext, on_leave: Callable[[Path], None]
    ) -> None:
        """Train the models with a worker process for each device, until none is left or a stop is requested."""
        preparer = ModelPreparer(self.settings, self._workers[0], host)
        with self._make_pool(host) as pool:
            with self._signals_handled(context), CheckpointWriter() as writer, TimelineWriter(self.folder) as timeline:
                session = Session(
                    scheduler=self._scheduler,
                    admission=Admission(self._candidates, context, preparer, locks),
                    host=host,
                    pool=pool,
                    writer=writer,
                    timeline=timeline,
                    view=self._view,
                    context=context,
                    history=self._history,
                    on_leave=on_leave,
                    on_poll=self._on_poll,
                    should_prefetch=self.settings.double_buffer,
                )
                session.run()
            session.save_unfinished()

    @contextmanager
    def _locked(self) -> Iterator[LockSet | None]:
        """Keep other launchers away, and yield the locks of tasks. The process of a job holds all of them already."""
        if self._context is not None:
            yield None
            return
        with LockSet("sharded training") as locks:
            locks.hold(self.folder)
            remove_partial_files(self.folder)
            yield locks

    def _signals_handled(self, context: TrainingContext) -> AbstractContextManager[None]:
        """Return the context in which Ctrl-C and SIGTERM request a stop. The process of a job has its own handlers."""
        if self._context is not None:
            return nullcontext()
        assert isinstance(context, LocalContext)
        return stop_on_signals(context)

    def _make_pool(self, host: HostMemory) -> WorkerPool:
        """Return the pool of workers, which free the host memory should this process be killed."""
        return WorkerPool(
            [replace(worker, scratch_folders=tuple(host.folders)) for worker in self._workers],
            self.folder / WORKER_LOGS,
            self.settings.stall_seconds,
            self._max_restarts,
            self._processes,
        )

    def _write_costs(self) -> None:
        """Write what the units of each model have cost to costs.json, for the simulator."""
        loads = self._history.loads
        if loads:
            write_loads(self.folder / COSTS, [loads[model_id] for model_id in sorted(loads)])
