"""Weights & Biases: without an account in a folder, from where `wandb sync` uploads."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax.dashboards import folders
from protonorm_jax.dashboards.dashboard import Run, numbers


class WeightsAndBiases:
    """One run of Weights & Biases a run, grouped by sweep.

    `WANDB_MODE` (offline), `WANDB_PROJECT` (protonorm) and `WANDB_DIR` are honoured. Offline, a run
    that is resumed is written anew, and what was not uploaded of it gives way; online, the server
    keeps what it has.

    Args:
      run: to be shown.
    """

    def __init__(self, run: Run) -> None:
        mode = os.environ.get("WANDB_MODE", "offline")
        if mode == "offline":  # Nothing goes out.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        # By itself it would ask at the terminal, in the middle of the run's own output.
        if mode == "online" and not wandb.login(prompt=False):
            raise RuntimeError("WANDB_MODE=online needs an account: run `wandb login` first")
        place = os.environ.get("WANDB_DIR")
        if place is None:
            folder = folders.make(run.folder, "wandb")
            for earlier in folder.glob(f"offline-run-*-{run.id}"):
                if not any(earlier.glob("*.synced")):
                    shutil.rmtree(earlier)
            place = str(run.folder)
        self._image, self._last_round = wandb.Image, 0
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "protonorm"),
            dir=place,
            mode=mode,  # type: ignore[arg-type]
            id=run.id,
            name=run.name,
            group=run.group or None,
            config=dict(run.settings),
            resume=None if mode == "offline" else "allow",
            reinit="create_new",  # Several runs of a sweep train side by side.
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Logs a step, unless the server has it from before."""
        self._last_round = row["round"]
        if self._last_round >= self._run.step:
            self._run.log(numbers(row), step=self._last_round)

    def finish(self, summary: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """Adds pictures and summary, and waits until all is written or uploaded."""
        if pictures:
            shown = {path.stem: self._image(str(path)) for path in pictures}
            self._run.log(shown, step=self._last_round)
        self._run.summary.update({f"summary/{name}": value for name, value in summary.items()})
        self._run.finish(exit_code=int(summary["status"] == "failed"))
