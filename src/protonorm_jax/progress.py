"""Live progress: a bar in a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from protonorm_jax.config import Config
from protonorm_jax.driver import Evaluation, Simulation

_SECONDS_BETWEEN_LINES = 5.0


class Display:
    """Shows one run while it goes on; a context manager."""

    def __init__(self, config: Config, console: Console | None = None) -> None:
        self._config = config
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("compiling", total=config.rounds, figures="")
        self._last_line = -_SECONDS_BETWEEN_LINES

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._progress.start()
        else:
            self._print("compiling ...")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def start(self, simulation: Simulation) -> None:
        """Says what was compiled and where it runs."""
        device = simulation.devices[0]
        count = len(simulation.devices)
        self._print(
            f"{self._config.method} on {self._config.data}: {self._config.num_clients} clients "
            f"({self._config.family}), {count} {device.platform} device{'s'[: count > 1]}, "
            f"compiled in {simulation.compile_seconds:.1f} s, "
            f"{simulation.bytes_per_device / 2**20:,.0f} MiB each; "
            f"majority-class yardstick {simulation.majority_accuracy:.3f}"
        )
        self._progress.update(self._task, description="rounds")
        self._progress.reset(self._task)

    def add(self, evaluation: Evaluation) -> None:
        """Shows one evaluated round."""
        row, done = evaluation.row, evaluation.row["round"]
        speed = done / evaluation.seconds
        accuracies = " ".join(
            f"{name} {row[f'{name}_accuracy']:.3f}"
            for name in ("prototype", "head")
            if row.get(f"{name}_accuracy") is not None
        )
        if self._console.is_terminal:
            figures = f"accuracy: {accuracies}  {speed:.3g} rounds/s"
            self._progress.update(self._task, completed=done, figures=figures)
            return
        now, last = time.monotonic(), done == self._config.rounds
        if last or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (self._config.rounds - done) / speed
            self._print(
                f"round {done}/{self._config.rounds}  accuracy: {accuracies}  loss "
                f"{row['loss']:.4g}  {speed:.3g} rounds/s  {left:.0f} s left"
            )

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)
