"""Runs tests on a copy of the source tree, in a process that has imported the libraries already."""

import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import time
from typing import NamedTuple

import pytest

_LIBRARIES = (
    *("jax", "jax.numpy", "flax.linen", "optax", "orbax.checkpoint", "chex", "scipy.linalg"),
    *("matplotlib.pyplot", "rich.progress", "pytest", "tests.mutants.trial"),
)
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(list(_LIBRARIES))
_PARTS = ("src", "tests", "README.md", "pyproject.toml")
_HASTY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


class Trial(NamedTuple):
    """What became of the tests.

    Attributes:
      outcome: `passed`, `failed`, or `timeout`.
      seconds: that they took.
      output: of pytest.
    """

    outcome: str
    seconds: float
    output: str


class Copy:
    """A copy of what the tests need; all copies share the compiled programs."""

    def __init__(self, root: pathlib.Path, folder: pathlib.Path, programs: pathlib.Path):
        self.folder, self.log = folder, folder / "output.txt"
        folder.mkdir()
        for part in _PARTS:
            if (root / part).is_dir():
                leave_out = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(root / part, folder / part, ignore=leave_out)
            else:
                shutil.copy2(root / part, folder / part)
        programs.mkdir(exist_ok=True)
        (folder / ".pytest_cache").symlink_to(programs)

    def run(self, tests: tuple[str, ...], limit: float) -> Trial:
        """Runs tests until the first fails, for so many seconds at most."""
        arguments = (self.folder, self.log, tests)
        process = _PROCESSES.Process(target=_test, args=arguments, daemon=True)
        begin = time.monotonic()
        process.start()
        process.join(limit)
        outcome = {None: "timeout", 0: "passed"}.get(process.exitcode, "failed")
        if outcome == "timeout":
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        return Trial(outcome, time.monotonic() - begin, self.log.read_text(errors="replace"))

    def run_with(self, module: str, code: str, tests: tuple[str, ...], limit: float) -> Trial:
        """As `run`, with other code in a module, which has its own again afterwards."""
        path = self.folder / "src" / "protonorm_jax" / module
        original, times = path.read_text(), path.stat()
        path.write_text(code)
        try:
            return self.run(tests, limit)
        finally:
            path.write_text(original)
            # Bytecode goes by the time and the size: that of the mutant must not be taken for it.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _test(folder: pathlib.Path, log: pathlib.Path, tests: tuple[str, ...]) -> None:
    """The process: ends with the code of pytest."""
    os.setsid()
    if not any("engine" in test for test in tests):  # Those compare bits.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_HASTY}"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    sys.path.insert(0, str(folder / "src"))
    os.environ["PYTHONPATH"] = str(folder / "src")
    sys.dont_write_bytecode = False  # Whatever the environment says: it is most of an import.
    code = pytest.main(["--exitfirst", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
    sys.stdout.flush()
    os._exit(code)
