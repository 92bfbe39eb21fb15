"""The command line: runs a command, and turns whatever ends it into a line and an exit code."""

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from protonorm_jax.command import commands, console, interruption
from protonorm_jax.errors import UsageError
from protonorm_jax.running import stopping


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    0 if all is done, 75 if a run or sweep was stopped before its end and can go on, 2 for a mistake
    of the user, 130 after Ctrl-C, 1 for a bug, and for what `verify` does not find reproduced.
    A reader of the output that leaves ends the output alone: the exit code is as if it had stayed.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    with console.lenient() as output:
        code = _exit_code(given)
        output.flush()
        if output.error is not None:
            code = code or _complain(f"standard output must be writable, got {output.error}", 2)
    jax = sys.modules.get("jax")
    together = code in (0, stopping.EXIT_CODE)
    if not together and jax is not None and jax.distributed.is_initialized():
        # An ordinary exit would wait for the other processes, and they for this one.
        sys.stdout.flush()
        os._exit(code)
    return code


def _exit_code(arguments: Sequence[str]) -> int:
    """Runs the command; mistakes, bugs and Ctrl-C become one line and a code."""
    debug = "--debug" in arguments
    try:
        with interruption.certain(), _stopping(arguments):
            parsed = commands.parse(arguments)
            return parsed.command(parsed)
    except UsageError as error:
        if debug:
            raise
        return _complain(str(error), 2)
    except OSError as error:
        if debug:
            raise
        path = (
            f"{str(error.filename)!r} must be a path that can be used"
            if error.filename
            else ("files must be readable and writable")
        )
        return _complain(f"{path}, got {error.strerror or _first_line(error)}", 2)
    except KeyboardInterrupt:
        _complain("interrupted", 130)
        # An ordinary exit would wait for the rounds that are still under way on the devices.
        sys.stdout.flush()
        os._exit(130)
    except Exception as error:
        if debug:
            raise
        if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
            return _complain(f"memory must be enough, got {_first_line(error)}", 2)
        return _complain(f"{_first_line(error)} (a bug; --debug shows where)", 1)


def _stopping(arguments: Sequence[str]) -> contextlib.AbstractContextManager[Any]:
    """Hears from the first moment on of being asked to stop, where the command can."""
    name = commands.called_by(arguments)
    if name is not None and commands.COMMANDS[name].stops:
        return stopping.StopRequest()
    return contextlib.nullcontext()


def _complain(message: str, code: int) -> int:
    message = re.sub(r"(\S{80})\S{120,}(\S{40})", r"\1...\2", console.one_line(message))
    print(f"protonorm: {message}", file=sys.stderr, flush=True)
    return code


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
