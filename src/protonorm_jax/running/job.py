"""Recorded runs that survive being killed: rows and checkpoints while training, and going on."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from protonorm_jax import config, dashboards
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import (
    checkpoint,
    conditions,
    driver,
    files,
    holders,
    kept_models,
    lock,
    logs,
    programs,
    reading,
    record,
    stopping,
)
from protonorm_jax.running import directory as places
from protonorm_jax.types import Dataset

_SECONDS_TO_END = 5.0
_BYTES_A_SECOND = 5e7  # To a disk that many share.


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


def run(
    settings: Config,
    directory: Path,
    *,
    display: RunDisplay,
    dataset: Dataset | None = None,
    overwrite: bool = True,
    log: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains one run and records it.

    Args:
      settings: of the run.
      directory: for its files; nothing is left in there that this has not recorded.
      display: told of the progress.
      dataset: used instead of loading `Config.data`.
      overwrite: replace another run or sweep in the directory, once this one has compiled.
      log: dashboards that show the run besides, of `dashboards.NAMES`.

    Returns:
      The summary; its `status` is `finished`, or `stopped` if it was asked to stop.

    Raises:
      UsageError: see `driver.run`; or the directory is in use, holds something else, or cannot be
        written.
    """
    check = functools.partial(places.check_free, overwrite=overwrite)
    logs.check(directory, log)
    with lock.holding(directory, check=check):
        return _run(settings, directory, display, dataset, log=log)


def resume(
    directory: Path,
    *,
    display: RunDisplay,
    num_devices: int | None = None,
    dataset: Dataset | None = None,
    log: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Goes on with a recorded run from its last checkpoint, or from the start if it has none.

    Args:
      directory: of the run.
      display: told of the progress.
      num_devices: `Config.devices` from now on; None leaves it as it was.
      dataset: used instead of loading `Config.data`.
      log: see `run`; None for the dashboards that it had.

    Returns:
      The summary, as of `run`; that which is there if the run is finished already.

    Raises:
      UsageError: there is no run, it is in use, data or flags of jax are not as they were, or its
        checkpoint cannot be used; see `driver.run`.
    """
    with lock.holding(directory, create=False, check=recover):
        if (directory / places.LONGER / places.CONFIG).exists():
            longer = settings_of(directory / places.LONGER, num_devices)
            return _extend(directory, longer, display, dataset, lambda text: None, log)
        settings = settings_of(directory, num_devices)
        if reading.is_finished(directory):
            if devices.is_first():  # A kill may have come before that.
                checkpoint.clear(directory, but=settings.rounds if settings.keep_state else None)
            return reading.read_summary(directory)
        _check_conditions(directory)
        names = logs.asked(directory, log)
        saved = checkpoint.latest(directory, [[settings]])
        return _run(settings, directory, display, dataset, directory, saved, log=names)


def extend(
    directory: Path,
    rounds: int,
    *,
    display: RunDisplay,
    num_devices: int | None = None,
    dataset: Dataset | None = None,
    say: Callable[[str], None] = print,
    log: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Goes on with a recorded run to another number of rounds than it was made for.

    The results are those of a run of so many rounds from the start. That is what it comes to where
    no state of the run is there, or where its course depends on how many rounds it has. Until it
    has finished, what is recorded stays as it is.

    Args:
      directory: of the run.
      rounds: in all.
      display: told of the progress.
      num_devices: `Config.devices` from now on; None leaves it as it was.
      dataset: used instead of loading `Config.data`.
      say: told if the run is run again from the start, and why.
      log: see `run`; None for the dashboards that it had. There it is a run of its own.

    Returns:
      The summary, as of `run`.

    Raises:
      UsageError: the run has done more rounds already; or see `resume`.
    """
    with lock.holding(directory, create=False, check=recover):
        settings = settings_of(directory, num_devices)
        longer = settings.replace(rounds=rounds)
        done = _rounds_done(directory, settings)
        if rounds < done:
            raise UsageError(
                f"--rounds must be >= {done}, as many as {str(directory)!r} has done, got {rounds}"
            )
        if rounds == settings.rounds:
            if devices.is_first():
                places.remove_longer(directory)
            return resume(
                directory, display=display, num_devices=num_devices, dataset=dataset, log=log
            )
        return _extend(directory, longer, display, dataset, say, log)


def _extend(
    directory: Path,
    longer: Config,
    display: RunDisplay,
    dataset: Dataset | None,
    say: Callable[[str], None],
    log: Sequence[str] | None,
) -> dict[str, Any]:
    """Runs to the number of rounds in `longer`, in a directory of its own until that is done."""
    inner = directory / places.LONGER
    _check_conditions(directory)
    begun = (inner / places.CONFIG).exists()
    if begun and settings_of(inner).rounds != longer.rounds:
        if devices.is_first():
            places.remove_longer(directory)
        begun = False
    saved = checkpoint.latest(inner, [[longer]]) if begun else None
    if saved is None:
        saved = _state_to_extend(directory, longer, dataset, say)
    names = logs.asked(inner if begun else directory, log, folder=directory)
    summary = _run(longer, inner, display, dataset, directory, saved, begun=begun, log=names)
    if summary["status"] == "finished" and devices.is_first():
        with files.writing(directory):
            places.replace_by_longer(directory)
    return summary


def _state_to_extend(
    directory: Path, longer: Config, dataset: Dataset | None, say: Callable[[str], None]
) -> checkpoint.Saved | None:
    """The state from which a run can go on to another number of rounds, or None to start over."""
    saved = checkpoint.latest(directory, [[longer]], free=("rounds",))
    if saved is None or saved.round_index >= longer.rounds:
        say(f"no state of {directory} was kept (--keep-state): it is run again from the start")
        return None
    shorter = longer.replace(rounds=settings_of(directory).rounds)
    digest = reading.read_manifest(directory).get("data_digest")
    with conditions.blaming_data(digest, longer, dataset, directory):
        plans = [planning.make([one], dataset) for one in (longer, shorter)]
    if not programs.have_one_course(*plans):
        say(
            f"{longer.method} with these settings depends on the number of rounds: "
            f"{directory} is run again from the start"
        )
        return None
    if longer.keep_models == "selected":
        best = saved.kept[0] if saved.kept else None
        inner = directory / places.LONGER
        if best and not (devices.agree(_carried(directory, inner, best["round"]))):
            say(f"the models of the best round of {directory} are not there: it is run again")
            return None
    # The last round is evaluated whatever it is.
    rows = [row for row in saved.rows[0] if row["round"] % longer.eval_every == 0]
    return saved._replace(rows=[rows])


def _carried(directory: Path, inner: Path, round_index: int) -> bool:
    """Copies the models that a longer run goes on with; in the first process alone."""
    if not devices.is_first():
        return False
    with files.writing(inner):
        return kept_models.carry(directory, inner, round_index)


def _rounds_done(directory: Path, settings: Config) -> int:
    """How many rounds of a recorded run are done for sure."""
    if reading.is_finished(directory):
        return settings.rounds
    rows = reading.read_rows(directory) if (directory / places.ROWS).exists() else []
    return max([checkpoint.newest(directory), *(int(row["round"]) for row in rows[-1:])])


def recover(directory: Path) -> None:
    """Ends what a killed process has begun in the directory of a run or sweep.

    Raises:
      UsageError: something cannot be written.
    """
    with files.writing(directory):
        places.complete(directory)
        places.clean(directory)


def is_done(directory: Path, *, leftovers: bool = False) -> bool:
    """Whether a recorded run is finished, and is not on its way to more rounds.

    Args:
      directory: of the run.
      leftovers: whether something to be removed may be left of it.
    """
    if not reading.is_finished(directory) or (directory / places.LONGER / places.CONFIG).exists():
        return False
    # The lock perhaps of a dead process.
    left = [directory / places.LONGER, directory / holders.NAME]
    if not settings_of(directory).keep_state:
        left.append(directory / places.CHECKPOINTS)
    return leftovers or not any(path.exists() for path in left)


def settings_to_resume(
    directory: Path, num_devices: int | None = None, rounds: int | None = None
) -> Config:
    """The settings that a recorded run goes on with, see `resume` and `extend`."""
    longer = directory / places.LONGER
    begun = rounds is None and (longer / places.CONFIG).exists()
    settings = settings_of(longer if begun else directory, num_devices)
    return settings if rounds is None else settings.replace(rounds=rounds)


def settings_of(directory: Path, num_devices: int | None = None) -> Config:
    """The settings of a recorded run, on other devices if `num_devices` says so.

    Raises:
      UsageError: there are none, or they cannot be used.
    """
    settings = config.load(directory / places.CONFIG)
    return settings if num_devices is None else settings.replace(devices=num_devices)


def check_methods_file(directory: Path, *, equal: bool = True) -> str | None:
    """See `record.check_methods_file`, for the run in a directory."""
    return record.check_methods_file(config.load_values(directory / places.CONFIG), equal=equal)


def _check_conditions(directory: Path) -> None:
    """Refuses to go on with a run without its file of methods, or under other flags of jax."""
    check_methods_file(directory)
    conditions.check_flags(reading.read_manifest(directory), directory)


def _run(
    settings: Config,
    directory: Path,
    display: RunDisplay,
    dataset: Dataset | None,
    recorded: Path | None = None,
    saved: checkpoint.Saved | None = None,
    *,
    begun: bool = True,
    log: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains a run and records it.

    Args:
      settings: of the run.
      directory: for its files.
      display: told of the progress.
      dataset: used instead of loading `Config.data`.
      recorded: directory of the run that this one goes on with; None for one from the start.
      saved: where to go on.
      begun: of a run that goes on, whether its directory is there.
      log: the dashboards that show it.
    """
    first = devices.is_first()
    with stopping.StopRequest() as stop:
        plan, digest = _plan(settings, dataset, recorded, saved)
        display.plan(plan)
        recorder = record.Recorder(directory, plan, data_digest=digest)
        new = first and (not begun if recorded else places.is_empty(directory))

        def open_logs() -> dashboards.Session:
            goes_on = recorded is not None and not new
            return logs.begin(directory, log, goes_on=goes_on, folder=recorded)

        if new:
            recorder.announce()
            session = open_logs()
        try:
            simulation = driver.compile_plan(plan)
        except BaseException:
            if new:
                places.remove(directory)
            raise
        recorders = {0: recorder} if first else {}
        if first:
            rows = saved.rows[0] if saved else []
            kept = saved.kept[0] if saved and saved.kept else None
            recorder.start(simulation, rows, kept, replacing=recorded is None and not new)
            if not new:  # By now nothing is there of what came before.
                session = open_logs()
            recorder.log_to(logs.run(session, recorded or directory, settings))
        with finishing(recorders), checkpoint.Keeper(directory, data_digest=digest) as keeper:
            display.start(simulation, saved.round_index if saved else 0)
            summary = train(simulation, 0, recorders, keeper, stop, display, saved)[0]
            if summary["status"] != "stopped":
                keeper.clear(but=settings.rounds if settings.keep_state else None)
                if first:
                    recorder.forget_checkpoints()
    if summary["status"] == "failed":
        raise UsageError(summary["error"])
    return summary


def _plan(
    settings: Config,
    dataset: Dataset | None,
    recorded: Path | None,
    saved: checkpoint.Saved | None,
) -> tuple[planning.Plan, str]:
    """The plan of a run, and the digest of its data, which are as they were if it goes on.

    Raises:
      UsageError: there is no plan, or data or partition are not as they were.
    """
    if recorded is None:
        plan = planning.make([settings], dataset)
        return plan, conditions.data_digest(plan.dataset)
    known = reading.read_manifest(recorded)
    with conditions.blaming_data(known.get("data_digest"), settings, dataset, recorded):
        plan = planning.make([settings], dataset)
    digest = conditions.data_digest(plan.dataset)
    partition = conditions.partition_digest(plan.runs[0].partition)
    for then in (known.get("data_digest"), saved.data_digest if saved else None):
        conditions.check_data(then, digest, settings.data, recorded)
    for then in (known.get("partition_digest"), *(saved.partition_digests if saved else ())):
        conditions.check_partition(then, partition, recorded)
    initial = plan.initial.digest if plan.initial else None
    conditions.check_initial(known.get("initial_digest"), initial, recorded)
    return plan, digest


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
