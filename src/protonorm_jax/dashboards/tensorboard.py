"""TensorBoard: event files that `tensorboard --logdir DIR` shows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax.dashboards import folders
from protonorm_jax.dashboards.dashboard import Run, numbers

_EVENTS = "events.out.tfevents.*"
_FLUSH_SECONDS = 10


class TensorBoard:
    """One folder of event files a run.

    A run that is resumed is written anew: an event file cannot be continued, and the rounds after
    the checkpoint would be there twice. A TensorBoard that is open drops what it has read.

    Args:
      run: to be shown.
    """

    def __init__(self, run: Run) -> None:
        import tensorboardX

        self._run, self._last_round = run, 0
        folder = folders.make(run.folder, "tensorboard")
        place = folder / run.name if run.group else folder
        earlier = list(place.glob(_EVENTS))
        for path in earlier:
            path.unlink()
        self._writer = tensorboardX.SummaryWriter(
            str(place), purge_step=0 if earlier else None, flush_secs=_FLUSH_SECONDS
        )
        self._writer.add_text("config", _code(run.settings))

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a point to each curve."""
        self._last_round = row["round"]
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, self._last_round)

    def finish(self, summary: Mapping[str, Any], pictures: Sequence[Path]) -> None:
        """Adds summary, hyperparameters and pictures, and closes the file."""
        import numpy as np
        from PIL import Image
        from tensorboardX.summary import hparams

        figures = {f"summary/{name}": value for name, value in numbers(summary).items()}
        for name, value in figures.items():
            self._writer.add_scalar(name, value, self._last_round)
        self._writer.add_text("summary", _code(summary))
        for path in pictures:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(path.stem, pixels, self._last_round, dataformats="HWC")
        known = {name: value for name, value in self._run.settings.items() if value is not None}
        for part in hparams(known, figures):
            self._writer.file_writer.add_summary(part)
        self._writer.close()


def _code(values: Mapping[str, Any]) -> str:
    """Values as a block of code in Markdown."""
    lines = json.dumps(dict(values), indent=2, default=str).splitlines()
    return "\n".join(f"    {line}" for line in lines)
