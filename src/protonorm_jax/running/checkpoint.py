"""The state of runs under way, kept on disk while they go on, and put back on any devices."""

import contextlib
import json
import math
import shutil
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from protonorm_jax.config import Config, from_dict
from protonorm_jax.errors import Caution, UsageError
from protonorm_jax.planning import devices, inputs
from protonorm_jax.planning.plan import Plan, PlannedRun
from protonorm_jax.running import conditions, driver, files, lock
from protonorm_jax.running import directory as directories

FOLDER = directories.CHECKPOINTS
_FORMAT = 2
_KEPT = 2  # The newest, and the one before it in case that a disk damages it.
# Settings that may change on the way.
_FREE = ("checkpoint_every", "devices", "keep_features", "keep_state", "vmap_clients")


class Saved(NamedTuple):
    """A checkpoint as it was read.

    Attributes:
      folder: where it is.
      group: number of the program that its runs share, as `Keeper` was told.
      first: index of the first of its runs.
      round_index: rounds finished.
      seconds: spent running.
      rows: of each run, its rows so far.
      kept: of each run, what `record.ByClient` had kept; empty in older checkpoints.
      data_digest: of the data, see `conditions`; None in older checkpoints.
      partition_digests: of each run; empty in older checkpoints.
      places: `run` `[num_devices, runs_each]` and for each architecture `client` `[num_devices,
        runs_each, slots]`: who was where, -1 for nobody.
      arrays: the leaves of the states by name.
    """

    folder: Path
    group: int
    first: int
    round_index: int
    seconds: float
    rows: list[list[dict[str, Any]]]
    kept: list[dict[str, Any] | None]
    data_digest: str | None
    partition_digests: list[str]
    places: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Keeper:
    """Writes checkpoints in the background, each whole or not at all; a context manager.

    A checkpoint that cannot be written is given up with a warning; the training goes on, and the
    last one that could be written stays.

    Args:
      directory: of a run or a sweep.
      group: number of the program that its runs share.
      data_digest: of their data.
    """

    def __init__(self, directory: Path, group: int = 0, data_digest: str | None = None) -> None:
        self._folder = directory / FOLDER
        self._group = group
        self._data_digest = data_digest
        self._manager: Any = None

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._manager is not None and not _is_interrupt(kind):
            with self._forgiving():
                self._manager.close()

    def save(
        self,
        simulation: driver.Simulation,
        first: int,
        step: driver.Step,
        rows: Sequence[list[dict[str, Any]]],
        kept: Sequence[dict[str, Any] | None] = (),
    ) -> None:
        """Starts to write a checkpoint; the states may be used up as soon as this returns.

        Args:
          simulation: compiled.
          first: index of the first of its runs.
          step: where they stand.
          rows: of each of these runs.
          kept: of each, see `record.ByClient.kept`.
        """
        from orbax import checkpoint as orbax

        if devices.is_first():
            lock.check(self._folder.parent)
        arrays = _by_name(step.states)
        shapes = {name: (leaf.shape, leaf.dtype.name) for name, leaf in arrays.items()}
        document = {
            "format": _FORMAT,
            "arrays": shapes,
            "checksums": _checksums(arrays),
            "configs": [run.config.to_dict() for run in _runs(simulation.plan, first)],
            "group": self._group,
            "first": first,
            "round_index": step.round_index,
            "seconds": step.seconds,
            "rows": files.finite(rows),
            "kept": list(kept),
            "data_digest": self._data_digest,
            "partition_digests": [
                conditions.partition_digest(run.partition) for run in _runs(simulation.plan, first)
            ],
            "places": jax.tree.map(np.ndarray.tolist, _places(simulation.plan, first)),
        }
        with self._forgiving():
            self._check_space(sum(leaf.nbytes for leaf in arrays.values()))
            if self._manager is None:
                self._manager = _manager(self._folder)
            self._manager.save(
                step.round_index,
                args=orbax.args.Composite(
                    state=orbax.args.StandardSave(arrays),
                    document=orbax.args.JsonSave(_signed(document)),
                ),
                force=True,
            )

    def _check_space(self, needed: int) -> None:
        """What orbax says of a full disk are hundreds of lines."""
        free = shutil.disk_usage(self._folder.parent).free
        if devices.agree(free < needed):
            raise OSError(f"{needed / 2**20:.0f} MiB are needed, {free / 2**20:.0f} MiB are free")

    def wait(self) -> None:
        """Waits for the checkpoint that is being written."""
        if self._manager is not None:
            with self._forgiving():
                self._manager.wait_until_finished()

    def clear(self, *, but: int | None = None) -> None:
        """Removes all checkpoints, but that of one round if `but` says so."""
        with self._forgiving():
            if self._manager is not None:
                self._manager.close()
        self._manager = None
        if devices.is_first():
            clear(self._folder.parent, but=but)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Turns a failure to write into a warning."""
        try:
            yield
        except Exception as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"a checkpoint could not be written to {self._folder}: {first_line[:200]}",
                Caution,
                stacklevel=3,
            )


def clear(directory: Path, *, but: int | None = None) -> None:
    """Removes the checkpoints in the directory of a run, but that of one round if `but` says so."""
    directories.clear_checkpoints(directory, but=but)


def latest(
    directory: Path, groups: Sequence[Sequence[Config]], free: Sequence[str] = ()
) -> Saved | None:
    """Reads the newest checkpoint in the directory of a run, or None if there is none.

    Args:
      directory: of a run or a sweep.
      groups: of each program of it, the settings of all its runs in order.
      free: names of settings that may be others now, beside those that always may.

    Raises:
      UsageError: it is damaged, of another make, or of runs with other settings.
    """
    folder = directory / FOLDER
    if not folder.is_dir() or not any(path.name.isdigit() for path in folder.iterdir()):
        return None
    folder /= str(max(int(path.name) for path in folder.iterdir() if path.name.isdigit()))
    with _refusing(folder), contextlib.closing(_manager(folder.parent)) as manager:
        return _read(manager, folder, groups, free)


def newest(directory: Path) -> int:
    """The rounds that were finished when the newest checkpoint of a run was made, or 0."""
    folder = directory / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def restore(simulation: driver.Simulation, first: int, saved: Saved) -> driver.Step:
    """Puts a checkpoint on the devices of a simulation, which may be others than it came from.

    Args:
      simulation: compiled for the same runs.
      first: index of the first of them.
      saved: what was read.

    Raises:
      UsageError: the states have other shapes.
    """
    old, new = saved.places, _places(simulation.plan, first)
    wanted, structure = jax.tree.flatten_with_path(simulation.shapes)
    leaves = []
    for path, shape in wanted:
        name = jax.tree_util.keystr(path)
        if not shape.size:
            leaves.append(np.zeros(shape.shape, shape.dtype))
            continue
        leaf = saved.arrays.get(name)
        by_client = name.startswith(".clients")
        if by_client:
            group = path[1].idx
            source = _sources(old["client"][group], new["client"][group], old["run"], new["run"])
        else:
            source = _sources(old["run"], new["run"])
        rest = 3 if by_client else 2
        own = shape.shape[rest:]
        if by_client and leaf is not None and math.prod(leaf.shape[rest:]) == math.prod(own):
            leaf = leaf.reshape(*leaf.shape[:rest], *own)  # Not all platforms keep them flat.
        if leaf is None or leaf.dtype != shape.dtype or leaf.shape[rest:] != own:
            raise UsageError(
                f"checkpoint must hold {name} as {shape.dtype}{list(own)}, got "
                f"{'none' if leaf is None else f'{leaf.dtype}{list(leaf.shape[rest:])}'} in "
                f"{str(saved.folder)!r}"
            )
        leaves.append(leaf.reshape(-1, *leaf.shape[rest:])[source])
    states = jax.tree.unflatten(structure, leaves)
    return driver.Step(simulation.put(states), saved.round_index, saved.seconds, {})


def _sources(
    old: np.ndarray,
    new: np.ndarray,
    old_run: np.ndarray | None = None,
    new_run: np.ndarray | None = None,
) -> np.ndarray:
    """For every new place the number of the old place with the same client and run.

    Args:
      old: runs `[num_devices, runs_each]`, or clients `[num_devices, runs_each, slots]`.
      new: the same of the new places.
      old_run: for clients, the runs; None where `old` is of runs.
      new_run: for clients, the runs.
    """
    if old_run is not None and new_run is not None:
        most = 1 + max(old.max(), new.max())
        old = np.where(old < 0, -1, old_run[..., None] * most + old)
        new = np.where(new < 0, -1, new_run[..., None] * most + new)
    flat = old.reshape(-1)
    order = np.argsort(flat, kind="stable")
    found = order[np.minimum(np.searchsorted(flat, new, sorter=order), flat.size - 1)]
    return np.where(new < 0, 0, found)


def _places(plan: Plan, first: int) -> dict[str, Any]:
    """Who is where, see `Saved`."""
    return inputs.clients_at(plan, _runs(plan, first))


def _runs(plan: Plan, first: int) -> Sequence[PlannedRun]:
    return plan.runs[first : first + plan.runs_per_program]


def _by_name(states: Any) -> dict[str, Any]:
    """The leaves by name; orbax does not take empty ones."""
    leaves, _ = jax.tree.flatten_with_path(states)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.size}


def _manager(folder: Path) -> Any:
    from orbax import checkpoint as orbax

    options = orbax.CheckpointManagerOptions(
        max_to_keep=_KEPT,
        create=True,
        cleanup_tmp_directories=True,
        # Otherwise a process whose save has failed hangs at its end.
        async_options=orbax.AsyncOptions(create_directories_asynchronously=False),
    )
    return orbax.CheckpointManager(folder.absolute(), options=options)


def _read(
    manager: Any, folder: Path, groups: Sequence[Sequence[Config]], free: Sequence[str]
) -> Saved:
    from orbax import checkpoint as orbax

    number = int(folder.name)
    document = _opened(
        manager.restore(
            number, args=orbax.args.Composite(document=orbax.args.JsonRestore())
        ).document
    )
    if document["format"] != _FORMAT:
        raise UsageError(
            f"checkpoint must have format {_FORMAT}, got {document['format']}, of another version, "
            f"in {str(folder)!r}; remove {str(folder.parent)!r} to run from the start"
        )
    group, first = document["group"], document["first"]
    configs = groups[group] if group < len(groups) else []
    here = configs[first : first + len(document["configs"])]
    _check_configs(document["configs"], here, folder, (*_FREE, *free))
    empty = {
        name: np.empty(shape, jax.numpy.dtype(dtype))
        for name, (shape, dtype) in document["arrays"].items()
    }
    arrays = manager.restore(
        number, args=orbax.args.Composite(state=orbax.args.StandardRestore(empty))
    ).state
    for name, checksum in document["checksums"].items():
        if _checksum(arrays[name]) != checksum:
            raise ValueError(f"the checksum of {name} is wrong")
    places = document["places"]
    return Saved(
        folder,
        group,
        first,
        document["round_index"],
        document["seconds"],
        document["rows"],
        document.get("kept", []),
        document.get("data_digest"),
        document.get("partition_digests", []),
        {"run": np.array(places["run"]), "client": [np.array(ids) for ids in places["client"]]},
        arrays,
    )


def _check_configs(
    saved: Sequence[dict[str, Any]], configs: Sequence[Config], folder: Path, free: Sequence[str]
) -> None:
    """Refuses a checkpoint of runs with other settings; a field that came later had its default."""
    if len(saved) != len(configs):
        raise UsageError(
            f"checkpoint must be of {len(configs)} runs, got {len(saved)} in {str(folder)!r}"
        )
    for values, config in zip(saved, configs, strict=True):
        before = from_dict(values).to_dict()
        for name, value in config.to_dict().items():
            if name not in free and before[name] != value:
                raise UsageError(
                    f"Config.{name} must be {before[name]!r} as in the checkpoint "
                    f"{str(folder)!r}, got {value!r}"
                )


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Turns whatever goes wrong with reading a checkpoint into a `UsageError`."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"checkpoint must be whole, got {str(folder)!r}: {first_line[:200]}; remove this "
            "folder to go on from the one before it, or from the start"
        ) from error


def _signed(document: dict[str, Any]) -> dict[str, Any]:
    """The document as text, with a checksum."""
    text = json.dumps(document)
    return {"document": text, "checksum": zlib.crc32(text.encode())}


def _opened(signed: dict[str, Any]) -> dict[str, Any]:
    """The document that was signed."""
    if zlib.crc32(signed["document"].encode()) != signed["checksum"]:
        raise ValueError("the checksum of the document is wrong")
    return json.loads(signed["document"])


def _checksums(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """Of all arrays; empty where a process sees only a part of them."""
    if jax.process_count() > 1:
        return {}
    return {name: _checksum(np.asarray(leaf)) for name, leaf in arrays.items()}


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def _is_interrupt(kind: type[BaseException] | None) -> bool:
    return kind is not None and issubclass(kind, KeyboardInterrupt)
