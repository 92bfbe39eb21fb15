"""MLflow: a folder `mlruns`, or the server that `MLFLOW_TRACKING_URI` names."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax.dashboards import folders
from protonorm_jax.dashboards.dashboard import Run, numbers

_ID, _SESSION = "protonorm.run", "protonorm.session"
_LIMIT = 100  # Parameters in a call.
_LONGEST = 5000  # Letters of a tag.
_STATUS = {"finished": "FINISHED", "failed": "FAILED"}
# Files of `mlruns` cannot be read while another thread writes them.
_ONE_AT_A_TIME = threading.Lock()


class MLflow:
    """One run of MLflow a run, one experiment a sweep.

    A run that is resumed is found by a tag, and only those points are added that it lacks.

    Args:
      run: to be shown.
    """

    def __init__(self, run: Run) -> None:
        with _ONE_AT_A_TIME:
            address = os.environ.get("MLFLOW_TRACKING_URI") or _local_store(run)
            from mlflow import entities
            from mlflow.tracking import MlflowClient

            self._entities, self._last_round = entities, 0
            self._client = MlflowClient(address)
            self._steps: dict[str, set[int]] = {}
            experiment = self._experiment(run.group or "protonorm")
            earlier = self._known(run, experiment).get(run.id) if run.resumed else None
            self._resumed = earlier is not None
            self._id = earlier or self._new(run, experiment)
            if earlier:
                self._client.update_run(earlier, status="RUNNING")

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a point to each metric that has none of this round."""
        step = self._last_round = row["round"]
        found = numbers(row).items()
        with _ONE_AT_A_TIME:
            self._log({name: value for name, value in found if self._lacks(name, step)}, step)

    def finish(self, summary: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """Adds summary and pictures, and ends the run."""
        figures = {f"summary/{name}": value for name, value in numbers(summary).items()}
        with _ONE_AT_A_TIME:
            self._log(figures, self._last_round)
            for name, value in summary.items():
                if isinstance(value, str):
                    self._client.set_tag(self._id, f"summary.{name}", value[:_LONGEST])
            for path in pictures:
                self._client.log_artifact(self._id, str(path))
            self._client.set_terminated(self._id, _STATUS.get(summary["status"], "KILLED"))

    def _experiment(self, name: str) -> str:
        """The id of the experiment of that name, which is made if there is none."""
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _known(self, run: Run, experiment: str) -> dict[str, str]:
        """What MLflow calls the runs of a session, by `Run.id`; asked for once."""
        known = run.shared.setdefault("mlflow", {})
        if experiment not in known:
            own: dict[str, str] = {}
            page = None
            while page != "":
                query = f"tags.`{_SESSION}` = '{run.session}'"
                found = self._client.search_runs([experiment], query, page_token=page)
                own |= {one.data.tags[_ID]: one.info.run_id for one in found}
                page = found.token or ""
            known[experiment] = own
        return known[experiment]

    def _new(self, run: Run, experiment: str) -> str:
        """Makes a run, and returns what MLflow calls it."""
        swept = {name: str(value) for name, value in run.swept.items()}
        tags = {_ID: run.id, _SESSION: run.session, **swept}
        result = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [self._entities.Param(name, str(value)) for name, value in run.settings.items()]
        for first in range(0, len(params), _LIMIT):
            self._client.log_batch(result, params=params[first : first + _LIMIT])
        return result

    def _lacks(self, name: str, step: int) -> bool:
        """Whether a metric has no point of this step."""
        if not self._resumed:
            return True
        if name not in self._steps:
            known = self._client.get_metric_history(self._id, name)
            self._steps[name] = {point.step for point in known}
        return step not in self._steps[name]

    def _log(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)


def _local_store(run: Run) -> str:
    """The address of the store in the folder of a run."""
    folder = folders.make(run.folder, "mlflow").resolve()
    # Version 3 asks for this word before it writes into a folder. And nothing is to go out.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for path in folder.glob("*/*/metrics/**/*") if run.resumed else ():
        if path.is_file() and not path.stat().st_size:  # A kill came before its first point.
            path.unlink()
    return folder.as_uri()
