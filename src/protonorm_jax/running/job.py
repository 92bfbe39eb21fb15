"""Recorded runs that survive being killed: rows and checkpoints while training, and going on."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol

from protonorm_jax import config
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import checkpoint, driver, record
from protonorm_jax.types import Dataset


class Display(Protocol):
    """What is told of the progress of runs."""

    def start(self, simulation: driver.Simulation, round_index: int = 0) -> None:
        """Everything is compiled, and goes on from this round."""

    def add(self, step: driver.Step) -> None:
        """A call of the program has ended."""


class RunDisplay(Display, Protocol):
    """What is told of the progress of one run."""

    def plan(self, planned: planning.Plan) -> None:
        """All is settled, and will be compiled now."""


class StopRequest:
    """Takes note of SIGTERM, as sent before a machine is taken away; a context manager.

    Attributes:
      asked: whether it has come.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def run(
    settings: Config,
    directory: Path,
    *,
    display: RunDisplay,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Trains one run and records it.

    Args:
      settings: of the run.
      directory: for its files; what another run has left there is replaced.
      display: told of the progress.
      dataset: used instead of loading `Config.data`.

    Returns:
      The summary; its `status` is `finished`, or `stopped` after SIGTERM.

    Raises:
      UsageError: see `driver.run`; or the directory cannot be written.
    """
    if devices.is_first():
        checkpoint.clear(directory)
    return _run(settings, directory, display, dataset, None)


def resume(
    directory: Path,
    *,
    display: RunDisplay,
    num_devices: int | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Goes on with a recorded run from its last checkpoint, or from the start if it has none.

    Args:
      directory: of the run.
      display: told of the progress.
      num_devices: `Config.devices` from now on; None leaves it as it was.
      dataset: used instead of loading `Config.data`.

    Returns:
      The summary, as of `run`; that which is there if the run is finished already.

    Raises:
      UsageError: there is no run, its checkpoint cannot be used; see `driver.run`.
    """
    settings = settings_of(directory, num_devices)
    if is_finished(directory):
        if devices.is_first():
            checkpoint.clear(directory)  # A kill may have come before that.
        return record.read_summary(directory)
    check_methods_file(directory)
    return _run(settings, directory, display, dataset, checkpoint.latest(directory, [[settings]]))


def is_finished(directory: Path) -> bool:
    """Whether a recorded run has come to its end."""
    return (directory / "summary.json").exists() and (
        record.read_summary(directory).get("status") == "finished"
    )


def settings_of(directory: Path, num_devices: int | None = None) -> Config:
    """The settings of a recorded run, on other devices if `num_devices` says so.

    Raises:
      UsageError: there are none, or they cannot be used.
    """
    settings = config.load(directory / "config.json")
    return settings if num_devices is None else settings.replace(devices=num_devices)


def check_methods_file(directory: Path, *, equal: bool = True) -> str | None:
    """See `record.check_methods_file`, for the run in a directory."""
    return record.check_methods_file(config.load_values(directory / "config.json"), equal=equal)


def _run(
    settings: Config,
    directory: Path,
    display: RunDisplay,
    dataset: Dataset | None,
    saved: checkpoint.Saved | None,
) -> dict[str, Any]:
    first = devices.is_first()
    with StopRequest() as stop:
        plan = planning.make([settings], dataset)
        display.plan(plan)
        recorder = record.Recorder(directory, plan)
        created = first and recorder.create()
        try:
            simulation = driver.compile_plan(plan)
        except BaseException:
            if created:
                record.remove(directory)
            raise
        recorders = {0: recorder} if first else {}
        if first:
            recorder.start(simulation, saved.rows[0] if saved else [])
        with finishing(recorders), checkpoint.Keeper(directory) as keeper:
            display.start(simulation, saved.round_index if saved else 0)
            summary = train(simulation, 0, recorders, keeper, stop, display, saved)[0]
            if summary["status"] != "stopped":
                keeper.clear()
    if summary["status"] == "failed":
        raise UsageError(summary["error"])
    return summary


@contextlib.contextmanager
def finishing(recorders: Mapping[int, record.Recorder], *, pictures: bool = True) -> Iterator[None]:
    """Completes the directories of runs that an error or Ctrl-C puts an end to."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(UsageError):  # The first error counts.
            for recorder in recorders.values():
                if interrupted:
                    recorder.finish("interrupted", pictures=pictures)
                else:
                    recorder.finish("failed", error=str(error), pictures=pictures)
        raise


def train(
    simulation: driver.Simulation,
    first: int,
    recorders: Mapping[int, record.Recorder],
    keeper: checkpoint.Keeper,
    stop: StopRequest,
    display: Display,
    saved: checkpoint.Saved | None,
    *,
    pictures: bool = True,
) -> dict[int, dict[str, Any]]:
    """Trains the runs of one call of the program, writes their rows, and keeps checkpoints.

    Args:
      simulation: compiled.
      first: index of the first run.
      recorders: by index of the run, started; none in processes that do not write.
      keeper: of checkpoints.
      stop: looked at after every call of the program.
      display: told of the progress.
      saved: where to go on.
      pictures: whether finished runs get any.

    Returns:
      The summaries of all runs by index, with `status` `finished`, `stopped` (all that have not
      failed) or `failed` and why as `error`; the checkpoints are still there.

    Raises:
      UsageError: something cannot be written.
    """
    every = simulation.plan.program.config.checkpoint_every
    rounds = simulation.plan.program.config.rounds
    count = min(simulation.plan.runs_per_program, len(simulation.plan.runs) - first)
    failures: dict[int, UsageError] = {}
    stopped = False

    def finish(index: int, status: str) -> dict[str, Any]:
        error = str(failures[index]) if index in failures else None
        status = "failed" if error else status
        if index not in recorders:
            return {"status": status, "error": error}
        return recorders[index].finish(status, error=error, pictures=pictures)

    indices = range(first, first + count)
    start = checkpoint.restore(simulation, first, saved) if saved else None
    for step in driver.train(simulation, first, start):
        for index, event in step.news.items():
            if isinstance(event, UsageError):
                failures[index] = event
            elif index in recorders:
                recorders[index].add(event)
        display.add(step)
        stopped = bool(devices.agree(stop.asked)) and step.round_index < rounds
        if stopped or (every and step.round_index % every == 0 and step.round_index < rounds):
            rows = [recorders[index].rows for index in indices] if recorders else []
            keeper.save(simulation, first, step, rows)
        if stopped:
            keeper.wait()
            break
    return {index: finish(index, "stopped" if stopped else "finished") for index in indices}
