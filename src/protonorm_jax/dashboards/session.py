"""Dashboards that cannot harm a run: each in a thread of its own, waited for only so long.

The run stands still while a dashboard starts or ends, and only then does a dashboard import or
parse anything: Python 3.11 raises a SystemError in one of two threads that parse source at once,
and that could be the run's.
"""

import functools
import importlib
import importlib.util
import queue
import re
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from protonorm_jax.dashboards.dashboard import Dashboard, Run
from protonorm_jax.errors import Caution, UsageError

PATIENCE = 60.0
"""Seconds for which a run waits for its dashboards, when it starts and when it ends."""


class _Kind(NamedTuple):
    """Where a dashboard is, and what it needs."""

    place: str
    needs: str


_KINDS = {
    "tensorboard": _Kind("tensorboard:TensorBoard", "tensorboardX"),
    "wandb": _Kind("wandb:WeightsAndBiases", "wandb"),
    "mlflow": _Kind("mlflow:MLflow", "mlflow"),
}
NAMES = tuple(_KINDS)


def check(names: Iterable[str]) -> None:
    """Refuses dashboards that there are not, or that are not installed.

    Raises:
      UsageError: there is one.
    """
    for name in names:
        if name not in _KINDS:
            raise UsageError(f"log must be of {', '.join(_KINDS)}, got {name!r}")
        found = importlib.util.find_spec(_KINDS[name].needs)
        if found is None or found.origin is None:  # A folder of that name is no package.
            raise UsageError(
                f"log must be of what is installed, got {name!r}: "
                f"pip install 'protonorm_jax[{name}]'"
            )


class Session:
    """The dashboards of a run alone, or of all runs of a sweep.

    Args:
      names: of the dashboards, of `NAMES`.
      folder: where they keep files on this machine.
      token: of an earlier session, whose runs are to be known again; a new one if left out.

    Raises:
      UsageError: a dashboard that there is not, or that is not installed.
    """

    def __init__(self, names: Sequence[str], folder: str | Path, token: str | None = None) -> None:
        check(names)
        self.names, self.folder = tuple(dict.fromkeys(names)), Path(folder)
        self.token = token or secrets.token_hex(4)
        self._resumed = token is not None
        self._shared: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._hanging: set[str] = set()

    def start(
        self,
        name: str,
        settings: Mapping[str, Any],
        *,
        key: str = "",
        group: str = "",
        swept: Mapping[str, Any] | None = None,
    ) -> "Log":
        """Shows a run from now on.

        Args:
          name: of the run.
          settings: of the run, by name.
          key: of the run in the session, letters, digits and hyphens.
          group: what the runs of a sweep have in common; empty for a run alone.
          swept: the settings by which the run differs from others of its group.
        """
        plain = re.sub(r"[^\w.,=+-]+", "-", name)[:100]
        own = f"{self.token}-{key}" if key else self.token
        run = Run(
            own,
            plain,
            group,
            settings,
            swept or {},
            self.folder,
            resumed=self._resumed,
            session=self.token,
            shared=self._shared,
        )
        workers = {}
        deadline = time.monotonic() + PATIENCE
        for one in self.names:
            if self.hangs(one):
                continue
            worker = _Worker(functools.partial(_made, one, run))
            if worker.wait_made(deadline - time.monotonic()):
                workers[one] = worker
            else:
                self.warn(one, f"did not start within {PATIENCE:g} s", hangs=True)
        return Log(self, workers)

    def hangs(self, name: str) -> bool:
        """Whether a dashboard has been waited for in vain; no run waits for it again."""
        return name in self._hanging

    def warn(self, name: str, text: str, *, hangs: bool = False) -> None:
        """Warns of a dashboard, the first time that there is something to say of it."""
        if hangs:
            self._hanging.add(name)
        if name not in self._warned:
            self._warned.add(name)
            words = f"--log {name}: {text}; the run's own files lack nothing"
            warnings.warn(words, Caution, stacklevel=3)


class Log:
    """One run in all dashboards of a session. Nothing here raises, nor waits but for the end."""

    def __init__(self, session: Session, workers: Mapping[str, "_Worker"]) -> None:
        self._session, self._workers = session, dict(workers)

    def add(self, row: Mapping[str, Any]) -> None:
        """Shows an evaluated round, such as `Evaluation.row`."""
        for worker in self._workers.values():
            worker.tell(lambda dashboard: dashboard.add(row))
        self._drop_failed()

    def finish(self, summary: Mapping[str, Any], pictures: Sequence[Path] = ()) -> None:
        """Shows how the run has ended, and waits until that is done, or for `PATIENCE` seconds.

        Args:
          summary: such as `History.summary`; its `status` is `finished` if it has none.
          pictures: files.
        """
        whole = {"status": "finished", **summary}
        deadline = time.monotonic() + PATIENCE
        for name, worker in self._workers.items():
            worker.tell(lambda dashboard: dashboard.finish(whole, pictures))
            worker.end()
            if not worker.wait(0 if self._session.hangs(name) else deadline - time.monotonic()):
                text = f"did not finish within {PATIENCE:g} s"
                self._session.warn(name, text, hangs=True)
        self._drop_failed()
        self._workers = {}

    def _drop_failed(self) -> None:
        for name in [name for name, worker in self._workers.items() if worker.failure]:
            self._session.warn(name, self._workers.pop(name).failure)


class _Worker:
    """A dashboard and the thread in which it is made and told.

    Attributes:
      failure: what it has raised; empty if nothing.
    """

    def __init__(self, make: Callable[[], Dashboard]) -> None:
        self.failure = ""
        self._made = threading.Event()
        self._calls: queue.SimpleQueue[Callable[[Dashboard], None] | None] = queue.SimpleQueue()
        # A daemon: the process can end while it hangs.
        self._thread = threading.Thread(target=self._work, args=(make,), daemon=True)
        self._thread.start()

    def wait_made(self, seconds: float) -> bool:
        """Waits until the dashboard is there, or cannot be; returns whether that has come."""
        return self._made.wait(max(seconds, 0.0))

    def tell(self, call: Callable[[Dashboard], None]) -> None:
        """Has the thread make a call, after those before it."""
        self._calls.put(call)

    def end(self) -> None:
        """Has the thread end after the last call."""
        self._calls.put(None)

    def wait(self, seconds: float) -> bool:
        """Waits for the end; returns whether it has come."""
        self._thread.join(max(seconds, 0.0))
        return not self._thread.is_alive()

    def _work(self, make: Callable[[], Dashboard]) -> None:
        try:
            dashboard = make()
            self._made.set()
            while (call := self._calls.get()) is not None:
                call(dashboard)
        except BaseException as error:  # Of what a dashboard raises nothing is known.
            text = " ".join(str(error).split()) or "no message"
            self.failure = f"{type(error).__name__}: {text}"
        finally:
            self._made.set()


def _made(name: str, run: Run) -> Dashboard:
    """A dashboard, whose vendor is imported now."""
    module, _, kind = _KINDS[name].place.partition(":")
    return getattr(importlib.import_module(f"protonorm_jax.dashboards.{module}"), kind)(run)
