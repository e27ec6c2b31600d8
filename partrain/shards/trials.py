"""Trials of models that are to join: threads that prepare models ask for them, and a worker's process computes them.

So the process that holds the models computes nothing: its devices, random generators and threads are the caller's.
"""

import threading
from collections import deque
from concurrent.futures import CancelledError, Future

from partrain.shards.messages import ModelSpec, ProfileRequest, ProfileResult, StepProfile

TRIAL_WORKER = 0
"""The number of the worker that computes trials."""


class TrialQueue:
    """A queue of trials, of which one at a time is at the worker.

    Any thread may ask for a trial. Another thread, which alone uses the worker's connection, sends the requests:

        thread that prepares a model       thread of the session            worker
        profile(spec) ─────────▶ queue ─▶ next_request() ─────────────────▶ computes
        returns the profile ◀──────────── finish(result) ◀────────────────┘
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[ProfileRequest, Future[StepProfile]]] = deque()
        """The trials that are to be sent."""
        self._sent: tuple[ProfileRequest, Future[StepProfile]] | None = None
        """The trial that is at the worker."""
        self._is_closed = False

    def profile(self, spec: ModelSpec) -> StepProfile:
        """Let the worker compute a few steps of a model, wait for it, and return what they take.

        Raises:
            Exception: The error that the steps raised.
            CancelledError: If the queue is closed before.
        """
        future: Future[StepProfile] = Future()
        with self._lock:
            if self._is_closed:
                raise CancelledError
            self._waiting.append((ProfileRequest(spec), future))
        return future.result()

    @property
    def is_waiting(self) -> bool:
        """Return whether a request is to be sent to the worker, which has none."""
        with self._lock:
            return bool(self._waiting) and self._sent is None

    def next_request(self) -> ProfileRequest:
        """Return the request that is to be sent to the worker."""
        with self._lock:
            assert self._sent is None
            self._sent = self._waiting.popleft()
            return self._sent[0]

    def finish(self, result: ProfileResult) -> None:
        """Pass on the result of the trial that is at the worker."""
        with self._lock:
            assert self._sent is not None
            (_, future), self._sent = self._sent, None
        if isinstance(result.outcome, Exception):
            future.set_exception(result.outcome)
        else:
            future.set_result(result.outcome)

    def repeat(self) -> None:
        """Send the trial again that is at the worker, since that has been lost."""
        with self._lock:
            if self._sent is not None:
                self._waiting.appendleft(self._sent)
                self._sent = None

    def close(self) -> None:
        """Cancel all trials, now and from now on, so that no thread waits for one."""
        self.repeat()
        with self._lock:
            self._is_closed = True
            for _, future in self._waiting:
                future.cancel()
            self._waiting.clear()
