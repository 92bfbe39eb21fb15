"""Runs of one call of a program, trained to their end: rows and checkpoints meanwhile."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax

from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices
from protonorm_jax.running import checkpoint, driver, record, stopping

_SECONDS_TO_END = 5.0
_BYTES_A_SECOND = 5e7  # To a disk that many share.


class Display(Protocol):
    """What is told of the progress of runs."""

    def start(self, simulation: driver.Simulation, round_index: int = 0) -> None:
        """Everything is compiled, and goes on from this round."""

    def add(self, step: driver.Step) -> None:
        """A call of the program has ended."""


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
    stop: stopping.StopRequest,
    display: Display,
    saved: checkpoint.Saved | None,
    *,
    pictures: bool = True,
    finished: Callable[[int, dict[str, Any]], None] = lambda index, summary: None,
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
      finished: called with the index and the summary of each run as soon as it is recorded.

    Returns:
      The summaries of all runs by index, with `status` `finished`, `stopped` (all that have not
      failed) or `failed` and why as `error`; the checkpoints are still there.

    Raises:
      UsageError: something cannot be written; all other runs are recorded.
    """
    every = simulation.plan.program.config.checkpoint_every
    rounds = simulation.plan.program.config.rounds
    count = min(simulation.plan.runs_per_program, len(simulation.plan.runs) - first)
    failures: dict[int, UsageError] = {}
    stopped = False
    longest, began = 0.0, time.monotonic()

    indices = range(first, first + count)
    start = checkpoint.restore(simulation, first, saved) if saved else None
    for step in driver.train(simulation, first, start):
        for index, event in step.news.items():
            if isinstance(event, UsageError):
                failures[index] = event
            elif index in recorders:
                recorders[index].add(event)
        _keep_models(simulation, first, step, recorders)
        display.add(step)
        now = time.monotonic()
        longest, began = max(longest, now - began), now
        within = longest + _seconds_to_save(step)  # Another call, and then a checkpoint.
        stopped = bool(devices.agree(stop.asked_within(within))) and step.round_index < rounds
        if stopped or (every and step.round_index % every == 0 and step.round_index < rounds):
            _save(keeper, simulation, first, step, recorders)
        if stopped:
            keeper.wait()
            break

    summaries: dict[int, dict[str, Any]] = {}
    unwritten: list[UsageError] = []
    for index in indices:
        error = str(failures[index]) if index in failures else None
        status = "failed" if error else "stopped" if stopped else "finished"
        summary: dict[str, Any] = {"status": status, "error": error}
        if index in recorders:
            try:
                summary = recorders[index].finish(status, error=error, pictures=pictures)
            except UsageError as failure:  # The other runs are to be recorded all the same.
                unwritten.append(failure)
                continue
        summaries[index] = summary
        finished(index, summary)
    if unwritten:
        raise unwritten[0]
    if simulation.plan.program.config.keep_state and not stopped and not failures:
        _save(keeper, simulation, first, step, recorders)
        keeper.wait()
    return summaries


def _seconds_to_save(step: driver.Step) -> float:
    """How long a checkpoint and the ends of the runs may take at most, so far as can be told."""
    return (
        _SECONDS_TO_END
        + sum(leaf.nbytes for leaf in jax.tree.leaves(step.states)) / _BYTES_A_SECOND
    )


def _keep_models(
    simulation: driver.Simulation,
    first: int,
    step: driver.Step,
    recorders: Mapping[int, record.Recorder],
) -> None:
    """Writes the models of the runs that keep those of this round; all processes take part."""
    if simulation.plan.program.config.keep_models == "none":
        return
    for index, event in step.news.items():
        recorder = recorders.get(index)
        wanted = isinstance(event, driver.Evaluation) and recorder and recorder.wants_models()
        if devices.agree(bool(wanted)):
            found = simulation.trained(step.states, step.inputs, index - first)
            if recorder is not None:
                recorder.add_models(found)
            else:
                for _ in found.clients:  # To fetch them takes all processes.
                    pass


def _save(
    keeper: checkpoint.Keeper,
    simulation: driver.Simulation,
    first: int,
    step: driver.Step,
    recorders: Mapping[int, record.Recorder],
) -> None:
    """Starts to write a checkpoint of the runs that `recorders` are of."""
    own = [recorders[index] for index in sorted(recorders)]
    rows, kept = [one.rows for one in own], [one.kept() for one in own]
    keeper.save(simulation, first, step, rows, kept)
