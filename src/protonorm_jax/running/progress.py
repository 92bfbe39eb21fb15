"""A bar of rounds for who runs simulations from Python, in a terminal or a notebook."""

import sys
from html import escape
from types import TracebackType
from typing import Any, Protocol, Self


class Bar(Protocol):
    """Shows rounds while they are done; a context manager."""

    def show(self, done: int, text: str) -> None:
        """Shows how many rounds are done, and a few words."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def bar(rounds: int, *, wanted: bool = True) -> Bar:
    """The bar that fits to where the program runs.

    Args:
      rounds: in all.
      wanted: whether anything is to be shown.
    """
    if not wanted:
        return _Nothing()
    return _NotebookBar(rounds) if _in_notebook() else _TerminalBar(rounds)


def _in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


class _Nothing:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, done: int, text: str) -> None:
        pass


class _TerminalBar(_Nothing):
    """On standard error, as the output may be a program's."""

    def __init__(self, rounds: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("compiling", total=rounds)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, done: int, text: str) -> None:
        self._progress.update(self._task, completed=done, description=text)


class _NotebookBar(_Nothing):
    """An element of HTML, which takes no widgets."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._handle: Any = None

    def __enter__(self) -> Self:
        self.show(0, "compiling")
        return self

    def show(self, done: int, text: str) -> None:
        from IPython.display import HTML, display

        element = HTML(
            f'<progress value="{done}" max="{self._rounds}"></progress> '
            f"{done}/{self._rounds} {escape(text)}"
        )
        if self._handle is None:
            self._handle = display(element, display_id=True)
        else:
            self._handle.update(element)
