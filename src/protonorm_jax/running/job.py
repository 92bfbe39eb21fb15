"""Recorded runs that survive being killed: begun, resumed, and made longer."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

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
    manifests,
    programs,
    reading,
    record,
    stopping,
    training,
)
from protonorm_jax.running import directory as places
from protonorm_jax.types import Dataset


class RunDisplay(training.Display, Protocol):
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
    """See `manifests.check_methods_file`, for the run in a directory."""
    return manifests.check_methods_file(config.load_values(directory / places.CONFIG), equal=equal)


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
        with (
            training.finishing(recorders),
            checkpoint.Keeper(directory, data_digest=digest) as keeper,
        ):
            display.start(simulation, saved.round_index if saved else 0)
            summary = training.train(simulation, 0, recorders, keeper, stop, display, saved)[0]
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
