"""The models that a run keeps: written while it trains, in place once it has finished.

What a round has made goes into `.models/ROUND` in the directory of the run, and the round that
counts becomes `models` in the end. The rounds that were the best when a checkpoint was made stay as
long as there are checkpoints: a run that goes on from one may need them.
"""

from pathlib import Path
from typing import Any

import safetensors.numpy

from protonorm_jax import metrics
from protonorm_jax.errors import UsageError
from protonorm_jax.running import comparing, driver, files
from protonorm_jax.running import directory as places
from protonorm_jax.running.fetching import Trained
from protonorm_jax.trained import files as trained

_CHECKPOINTS = 2  # As many as are kept.


def described(simulation: driver.Simulation, index: int, recorded: dict[str, Any]) -> dict:
    """What `models.json` says of run `index`, but for round and files.

    Args:
      simulation: compiled.
      index: into `plan.runs`.
      recorded: `config`, as it is recorded, and `data_digest`.
    """
    plan = simulation.plan
    run, dataset = plan.runs[index], plan.dataset
    counts = metrics.class_counts(run.partition, dataset.labels, dataset.num_classes)
    return {
        "format": trained.FORMAT,
        "method": run.config.method,
        "predictor": simulation.predictor,
        "predictors": list(simulation.predictors),
        "num_classes": dataset.num_classes,
        "image_shape": list(dataset.images.shape[1:]),
        "pixels": {"divided_by": 127.5, "less": 1.0},
        "feature_dim": run.config.feature_dim,
        "shared_model": plan.shared_model,
        **recorded,
        "clients": [
            {
                "client": client,
                **({"name": run.names[client]} if run.names else {}),
                "architecture": architecture,
                "train_by_class": {str(c): int(n) for c, n in enumerate(own) if n},
            }
            for client, (architecture, own) in enumerate(
                zip(plan.architectures, counts, strict=True)
            )
        ],
    }


class ModelFolder:
    """The kept models in the directory of a run.

    Args:
      directory: of the run.
      described: see the function of that name.
    """

    def __init__(self, directory: Path, described: dict[str, Any]) -> None:
        self._directory = directory
        self._described = described
        self._needed: list[int] = []  # Rounds that checkpoints may go on from, the last ones.

    def start(self, needed: int | None = None) -> None:
        """Leaves in the directory nothing of what came before.

        Args:
          needed: the round whose models are the best so far, for a run that goes on.

        Raises:
          UsageError: these are not there.
          OSError: something cannot be written.
        """
        if needed is None:
            places.remove_models(self._directory)
            return
        source = _holding(self._directory, needed)
        if source is None:
            raise UsageError(
                f"{self._directory / places.SELECTED / str(needed)} must hold the models of round "
                f"{needed}, got none; remove the checkpoints to run from the start"
            )
        if source == self._directory / places.MODELS:  # Put there just before a kill.
            (self._directory / places.SELECTED).mkdir(exist_ok=True)
            source.rename(self._round(needed))
        self._needed = [needed]
        places.remove_models(self._directory, but=(needed,))

    def write(self, round_index: int, found: Trained, best: int | None) -> None:
        """Writes what clients have learned in a round, in place of the best so far.

        Args:
          round_index: the round.
          found: what they have learned.
          best: the round that a checkpoint made now would go on from, which may be another one:
            the last round is evaluated whatever it is.

        Raises:
          OSError: something cannot be written.
        """
        folder = self._round(round_index)
        needed = [one for one in (*self._needed, best) if one not in (round_index, None)]
        places.remove_selected(self._directory, but=needed)
        folder.mkdir(parents=True)
        clients = [dict(one) for one in self._described["clients"]]
        for client, state in found.clients:
            name = trained.client_file(client)
            clients[client] |= _write(folder / name, trained.by_net(state))
        server = None
        if found.sent is not None:
            server = _write(folder / trained.SERVER, trained.server_tree(found.sent))
        written = {"round": round_index, "server": server, "clients": clients}
        files.write_json(folder / trained.MANIFEST, self._described | written)

    def note_checkpoint(self, best: int) -> None:
        """A checkpoint is made now, when this round is the best."""
        self._needed = [*self._needed, best][-_CHECKPOINTS:]

    def finish(self, round_index: int) -> None:
        """Puts the models of a round in their place.

        Raises:
          OSError: something cannot be written.
        """
        target, folder = self._directory / places.MODELS, self._round(round_index)
        written = trained.find(folder).described
        if written["config"] != self._described["config"]:  # That of a run of fewer rounds.
            now = written | {"config": self._described["config"]}
            files.write_json(folder / trained.MANIFEST, now)
        places.remove_kept(target)
        folder.rename(target)
        files.sync_folder(self._directory)

    def clear(self, *, but_needed: bool = False) -> None:
        """Removes what only going on from a checkpoint takes, but for the last one if asked."""
        places.remove_selected(self._directory, but=self._needed[-1:] if but_needed else ())

    def _round(self, round_index: int) -> Path:
        return self._directory / places.SELECTED / str(round_index)


def carry(source: Path, target: Path, round_index: int) -> bool:
    """Copies the models of a round from the directory of a run to another; false without any.

    Raises:
      OSError: something cannot be written.
    """
    found = _holding(source, round_index)
    if found is None:
        return False
    folder = target / places.SELECTED / str(round_index)
    places.remove_models(target)
    folder.mkdir(parents=True)
    for path in sorted(found.iterdir(), key=lambda path: path.name == trained.MANIFEST):
        if places.is_of_models(path):
            with files.replacing(folder / path.name) as file:
                file.write(path.read_bytes())
    return True


class Comparison:
    """Whether a run that is run again makes the models that were kept of it.

    Args:
      directory: of the recorded run.

    Attributes:
      files: by file, what differs.

    Raises:
      UsageError: what describes the models cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._kept = trained.find(directory)
        self._seen = False
        self.files: dict[str, list[comparing.Difference]] = {}

    def add(self, simulation: driver.Simulation, step: driver.Step, number: int) -> None:
        """Takes in where run `number` of a call stands; only the round that was kept counts.

        Raises:
          UsageError: a file of the recorded run is damaged.
        """
        if step.round_index != self._kept.round_index or self._seen:
            return
        self._seen = True
        found = simulation.trained(step.states, step.inputs, number)
        for client, state in found.clients:
            self._compare(self._kept.clients[client]["file"], trained.by_net(state))
        server = self._kept.described["server"]
        if server is not None or found.sent is not None:
            self._compare(
                server["file"] if server else trained.SERVER, trained.server_tree(found.sent)
            )

    def _compare(self, file: str, now: Any) -> None:
        listed = (self._kept.folder / file).exists()
        then = self._kept.arrays(file) if listed else {}
        name = f"{trained.FOLDER}/{file}"
        self.files[name] = comparing.compare_arrays(then, trained.arrays_of(now))


def _holding(directory: Path, round_index: int) -> Path | None:
    """The folder in the directory of a run that holds the models of a round, whole."""
    for folder in (directory / places.SELECTED / str(round_index), directory / places.MODELS):
        whole = (folder / trained.MANIFEST).exists()
        if whole and trained.find(folder).round_index == round_index:
            return folder
    return None


def _write(path: Path, tree: Any) -> dict[str, str]:
    """Writes the arrays of a tree; returns the name of the file and its digest."""
    content = safetensors.numpy.save(trained.arrays_of(tree))
    with files.replacing(path) as file:
        file.write(content)
    return {"file": path.name, "sha256": trained.digest_of(content)}
