"""The language model behind the live pages: loaded when first asked for, and used by one thread alone.

What is asked waits in a short queue; beyond it is a clear refusal, so that a crowd cannot pile up work. A visitor who
leaves takes his work away.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expander_sae.records import ExpanderSaeError
from expander_sae.web.answers import BusyError, Job

if TYPE_CHECKING:
    from .model_work import Session

WAITING = 4
"""Requests that wait for the model, beside the one it works on."""
Work = Callable[["Session", threading.Event], Any]


class NoModelError(ExpanderSaeError):
    """The server was started without a model."""

    status = 404


class ModelJob(Job):
    """Work for the model."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work


class Live:
    """The queue before the model, and its one thread.

    Args:
        model: folder or hub id; None: there is no model, and every request for it is refused.
        saes: folders to look for the views' SAEs in, before those that the store names.
        device: where the model and the SAEs are.
        dtype: what the model computes in.
    """

    def __init__(
        self, model: str | None, saes: Sequence[Path] = (), *, device: str = "cpu", dtype: str = "auto"
    ) -> None:
        self.model, self.saes, self.device, self.dtype = model, list(saes), device, dtype
        self._queue: queue.Queue[ModelJob | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._running: ModelJob | None = None
        self._closed = False

    def state(self) -> dict[str, Any]:
        """Whether there is a model, and whether it is loaded."""
        name = None if self.model is None else Path(self.model).name if Path(self.model).is_dir() else self.model
        return {"enabled": self.model is not None, "model": name, "ready": self._session is not None}

    def submit(self, work: Work) -> ModelJob:
        """Have `work(session, cancelled)` done by the model's thread.

        Raises:
            BusyError: too many wait already.
            NoModelError: there is no model.
        """
        if self.model is None:
            raise NoModelError("expected a language model; this server has none. Start it with --model FOLDER")
        job = ModelJob(work)
        with self._lock:
            if self._closed:
                raise BusyError("the server is stopping")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="model", daemon=True)
                self._thread.start()
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise BusyError(
                    f"the model is busy: {WAITING} requests are waiting for it already. Try again in a moment"
                ) from None
        return job

    def close(self) -> None:
        """Call off what runs and what waits, and end the thread."""
        with self._lock:
            self._closed = True
            thread, running = self._thread, self._running
        if thread is None:
            return
        if running is not None:
            running.cancelled.set()
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting.future.cancel()
        self._queue.put(None)
        thread.join(timeout=10)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                self._running = job
            if job.cancelled.is_set() or self._closed or not job.future.set_running_or_notify_cancel():
                job.future.cancel()
                continue
            try:
                job.future.set_result(job.work(self._opened(), job.cancelled))
            except BaseException as error:  # told to whoever asked, whatever it is; the thread goes on
                job.future.set_exception(error)

    def _opened(self) -> Session:
        if self._session is None:
            from .model_work import Session  # torch and transformers take seconds to import

            assert self.model is not None
            self._session = Session(self.model, self.saes, device=self.device, dtype=self.dtype)
        return self._session
