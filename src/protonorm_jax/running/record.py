"""The run directory: the only place where a run's results are written."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from protonorm_jax import dashboards, metrics, report
from protonorm_jax.errors import Caution
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import (
    conditions,
    driver,
    fetching,
    files,
    holdings,
    kept_models,
    lock,
    manifests,
)
from protonorm_jax.running import directory as places
from protonorm_jax.running.driver import Evaluation, Simulation

# Of an earlier run in the same place, or written anew.
_STAYING = (places.CONFIG, places.MANIFEST, places.ROWS, places.DASHBOARDS)
_SECONDS_UNSYNCED = 1.0  # For so long a row may be lost by a power cut.


class Recorder:
    """Writes one run into its directory, each file whole or not at all.

    `metrics.jsonl` grows by a line for each evaluated round. The summary's `status` is `finished`,
    `failed`, `interrupted` (Ctrl-C) or `stopped` (SIGTERM).

    Args:
      directory: of the run.
      plan: what was planned.
      index: into `plan.runs`.
      data_digest: of the data, see `conditions.data_digest`; made here if left out.
    """

    def __init__(
        self, directory: Path, plan: Plan, index: int = 0, data_digest: str | None = None
    ) -> None:
        self.directory = directory
        self.config = plan.runs[index].config
        self.rows: list[dict[str, Any]] = []
        self._index = index
        self._data_digest = data_digest or conditions.data_digest(plan.dataset)
        self._simulation: Simulation | None = None
        self._last: Evaluation | None = None
        self._by_client: ByClient | None = None
        self._models: kept_models.ModelFolder | None = None
        self._synced = 0.0
        self._log: dashboards.Log | None = None

    def announce(self) -> None:
        """Writes the settings, from which a run can be resumed that never got any further.

        Raises:
          UsageError: the directory cannot be written.
        """
        with files.writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            files.write_json(self.directory / places.CONFIG, manifests.recorded_config(self.config))

    def start(
        self,
        simulation: Simulation,
        rows: Sequence[dict[str, Any]] = (),
        kept: dict[str, Any] | None = None,
        *,
        replacing: bool = False,
    ) -> None:
        """Describes the run, and leaves in its directory nothing of what came before.

        Args:
          simulation: compiled.
          rows: of the rounds before a checkpoint from which the run goes on.
          kept: what `ByClient` had kept by then.
          replacing: whether another run or sweep gives way to it.

        Raises:
          UsageError: the directory cannot be written.
        """
        lock.check(self.directory)
        self._simulation = simulation
        self.rows = list(rows)
        self._by_client = ByClient(simulation, self._index, kept)
        if self.config.keep_models != "none":
            written = manifests.recorded_config(self.config)
            del written["devices"]  # The models are the same on any.
            said = {"config": written, "data_digest": self._data_digest}
            described = kept_models.described(simulation, self._index, said)
            self._models = kept_models.ModelFolder(self.directory, described)
        with files.writing(self.directory):
            if replacing:
                places.replace(
                    self.directory, places.CONFIG, manifests.recorded_config(self.config)
                )
            else:
                self.announce()
            best = kept["round"] if kept and self.config.keep_models == "selected" else None
            if self._models is not None:
                self._models.start(best)
            else:
                places.remove_models(self.directory)
            # What says which data the rows are of is there as long as rows are.
            arrays = holdings.arrays(simulation.plan, self._index)
            staying = {*_STAYING, *([places.HOLDINGS] if arrays else [])}
            if arrays:
                with files.replacing(self.directory / places.HOLDINGS) as file:
                    np.savez_compressed(file, allow_pickle=False, **arrays)
            described = manifests.of(simulation, self._index, self._data_digest)
            described["goes_on_after"] = self.rows[-1]["round"] if self.rows else 0
            files.write_json(self.directory / places.MANIFEST, described)
            for name in places.FILES:
                if name not in staying:
                    (self.directory / name).unlink(missing_ok=True)
            with files.replacing(self.directory / places.ROWS) as file:
                file.writelines(map(files.line, self.rows))

    def log_to(self, log: dashboards.Log) -> None:
        """Shows the rows in dashboards too: those that there are, and those to come."""
        self._log = log
        for row in self.rows:
            log.add(row)

    def add(self, evaluation: Evaluation) -> None:
        """Appends the row of one evaluated round; within a second or two it is on the disk.

        Raises:
          UsageError: it cannot be written; the rows before it are whole.
        """
        assert self._by_client is not None, "not started"
        lock.check(self.directory)
        due = time.monotonic() - self._synced >= _SECONDS_UNSYNCED
        files.append_line(self.directory / places.ROWS, evaluation.row, sync=due)
        if due:
            self._synced = time.monotonic()
        self.rows.append(evaluation.row)
        self._by_client.add(evaluation)
        self._last = evaluation
        if self._log:
            self._log.add(evaluation.row)

    def kept(self) -> dict[str, Any] | None:
        """What a checkpoint that is made now must hold beside the rows, see `ByClient.kept`."""
        kept = self._by_client.kept() if self._by_client else None
        if self._models is not None and kept is not None:
            self._models.note_checkpoint(kept["round"])
        return kept

    def wants_models(self) -> bool:
        """Whether the models of the round that was added last are to be kept, as far as known."""
        if self._models is None or self._last is None:
            return False
        return self._last.row["round"] == self._round_to_keep()

    def _round_to_keep(self) -> int:
        """The round whose models are kept, as far as known."""
        selected = self._by_client.selected() if self._by_client else None
        if self.config.keep_models == "last" or selected is None:
            return self.config.rounds
        return selected

    def add_models(self, found: fetching.Trained) -> None:
        """Writes the models of the round that was added last.

        Raises:
          UsageError: they cannot be written.
        """
        assert self._models is not None and self._last is not None, "no models are wanted"
        lock.check(self.directory)
        with files.writing(self.directory):
            kept = self._by_client.kept() if self._by_client else None
            best = kept["round"] if kept else None
            self._models.write(self._last.row["round"], found, best)

    def forget_checkpoints(self) -> None:
        """Removes what is kept for checkpoints, which are gone, but for the final state if kept."""
        if self._models is not None:
            self._models.clear(but_needed=self.config.keep_state)

    def finish(self, status: str, *, error: str | None = None, pictures: bool = True) -> dict:
        """Writes summary, prototypes and pictures; returns the summary.

        Whatever goes wrong with one of them costs that one alone: without its arrays a run has
        failed, and a picture that is missing is among the summary's `warnings`.

        Args:
          status: how the run ended.
          error: why it failed.
          pictures: whether to draw any.

        Raises:
          UsageError: arrays or the summary cannot be written; of a run that has failed anyway, the
            summary alone counts.
        """
        lock.check(self.directory)
        summary = self._summary(status, error)
        if self._models is not None and summary["status"] == "failed":
            summary["warnings"] = ["no models are kept of a run that has failed"]
        with files.writing(self.directory):
            files.sync_file(self.directory / places.ROWS)
            try:
                for name, content in arrays_by_file(self._last, self._by_client).items():
                    with files.replacing(self.directory / name) as file:
                        np.savez(file, allow_pickle=False, **content)
            except Exception as failure:
                failed = summary["status"] == "failed"
                if isinstance(failure, OSError) and not failed:
                    raise
                reason = f"the arrays could not be written: {_first_line(failure)}"
                summary |= {"status": "failed", "error": summary.get("error", reason)}
            for name, draw in self._pictures(summary) if pictures else ():
                try:
                    with files.replacing(self.directory / name) as file:
                        draw(file)
                except Exception as failure:
                    text = f"{name} could not be drawn: {_first_line(failure)}"
                    summary["warnings"] = [*summary.get("warnings", []), text]
            if self._models is not None and summary["status"] == "finished":
                self._models.finish(self._round_to_keep())
            # Last: a directory with a summary is complete.
            files.write_json(self.directory / places.SUMMARY, summary)
        for text in summary.get("warnings", ()):
            warnings.warn(f"{self.directory}: {text}", Caution, stacklevel=2)
        if self._log:
            drawn = [self.directory / name for name in places.PICTURES]
            self._log.finish(summary, [path for path in drawn if path.exists()])
        return summary

    def _summary(self, status: str, error: str | None) -> dict[str, Any]:
        """How the run has ended; it has failed if its figures cannot be summed up."""
        assert self._simulation is not None, "not started"
        seconds = self._last.seconds if self._last else 0.0
        try:
            figures = driver.summary(self._simulation, self._index, self.rows, seconds)
        except Exception as failure:
            figures = {"method": self.config.method, "rounds": len(self.rows)}
            status, error = "failed", error or f"no summary could be made: {_first_line(failure)}"
        return files.finite(figures | {"status": status} | ({"error": error} if error else {}))

    def _pictures(
        self, summary: dict[str, Any]
    ) -> Iterator[tuple[str, Callable[[BinaryIO], None]]]:
        """The names of the pictures, and what draws them."""
        assert self._simulation is not None, "not started"
        train, test, _ = holdings.held(self._simulation.plan, self._index)
        yield "clients.png", lambda file: report.draw_clients(train, test, file)
        if self.rows:
            yield "curves.png", lambda file: report.draw_curves(self.rows, summary, file)
        arrays = self._last.arrays if self._last else {}
        if {"class_means", "prototypes"} <= arrays.keys():
            yield "prototypes.png", lambda file: report.draw_prototypes(arrays, file)


class ByClient:
    """The right predictions of every client, in the selected and in the last round.

    Args:
      simulation: compiled.
      index: into `plan.runs`.
      kept: what an earlier one had kept, to go on from there.
    """

    def __init__(
        self, simulation: Simulation, index: int = 0, kept: dict[str, Any] | None = None
    ) -> None:
        run = simulation.plan.runs[index]
        self._scored, self._every = run.scored, run.config.eval_every
        self._selects = metrics.VALIDATION in self._scored.parts
        self._column = metrics.column(simulation.predictor, metrics.VALIDATION)
        self._last: dict[str, Any] | None = None
        self._best: dict[str, Any] | None = None
        if kept is not None:
            correct = {name: np.array(one, np.int32) for name, one in kept["correct"].items()}
            self._best = kept | {"correct": correct}

    def add(self, evaluation: Evaluation) -> None:
        """Takes in an evaluated round."""
        if self._last is not None and self._last["round"] % self._every == 0:
            self._best = self._better(self._best, self._last)
        accuracy = evaluation.row.get(self._column)
        self._last = {
            "round": evaluation.row["round"],
            "accuracy": -1.0 if accuracy is None else accuracy,
            "correct": evaluation.correct,
        }

    @staticmethod
    def _better(best: dict[str, Any] | None, last: dict[str, Any]) -> dict[str, Any]:
        """The one with the higher validation accuracy, the first of equals."""
        return last if best is None or last["accuracy"] > best["accuracy"] else best

    def kept(self) -> dict[str, Any] | None:
        """What a checkpoint must hold to go on from here, JSON-ready.

        Among rounds that are evaluated whatever the number of rounds is; the last one is evaluated
        because it is the last.
        """
        best = self._best
        if self._last is not None and self._last["round"] % self._every == 0:
            best = self._better(best, self._last)
        if best is None or not self._selects:
            return None
        correct = {name: value.tolist() for name, value in best["correct"].items()}
        return best | {"correct": correct}

    def selected(self) -> int | None:
        """The round that validation samples select so far; None without any."""
        if self._last is None or not self._selects:
            return None
        return self._better(self._best, self._last)["round"]

    def arrays(self) -> dict[str, np.ndarray]:
        """What `clients.npz` holds.

        `parts` `[P]` names; `count` `[num_clients, P]` int32, the samples that each client is
        scored on; `rounds` `[K]` int32, the selected round, if there are validation samples, and
        the last one; and `NAME_correct` `[K, num_clients, P]` int32 for each predictor.
        """
        if self._last is None:
            return {}
        chosen = [self._better(self._best, self._last)] if self._selects else []
        rounds = [*chosen, self._last]
        return {
            "parts": np.array([part or "test" for part in self._scored.parts]),
            "count": self._scored.counts.astype(np.int32),
            "rounds": np.array([one["round"] for one in rounds], np.int32),
        } | {
            f"{name}_correct": np.stack([one["correct"][name] for one in rounds]).astype(np.int32)
            for name in self._last["correct"]
        }


def arrays_by_file(
    evaluation: Evaluation | None, by_client: ByClient | None
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays that a run leaves behind, by file and name.

    `prototypes.npz` for methods with prototypes, `shown.npz` for whatever else a method shows of
    its server, `server.npz` for the server's nets, whose leaves are named like paths, `clients.npz`
    for what `ByClient` holds, and `features.npz` for features, if they were to be kept.

    Args:
      evaluation: the last one.
      by_client: of the same run.
    """
    if evaluation is None or by_client is None:
        return {}
    leaves, _ = jax.tree_util.tree_flatten_with_path(evaluation.nets)
    nets = {"/".join(_key(entry) for entry in path): leaf for path, leaf in leaves}
    shown = "prototypes.npz" if "prototypes" in evaluation.arrays else "shown.npz"
    files = {shown: evaluation.arrays, "server.npz": nets}
    files |= {"clients.npz": by_client.arrays(), "features.npz": evaluation.features}
    return {name: arrays for name, arrays in files.items() if arrays}


def _key(entry: Any) -> str:
    """One step of a path into a pytree: a key, a field or a position."""
    return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
