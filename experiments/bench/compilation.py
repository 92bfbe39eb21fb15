"""What programs for absent TPUs take: seconds to compile, bytes of code and of temporaries.

Held against a table that is checked in, `compilation.json` beside this file. Bytes may exceed it by
a twentieth. Seconds depend on the machine and its load, those of its processors less than those on
the wall: the ratio is shown and nothing more. With another jax or libtpu than those of the table
nothing is held against it.

    pip install 'protonorm_jax[aot]'
    python -m experiments.bench --only compilation           # compares
    python -m experiments.bench.compilation [PROGRAM ...]    # writes the table anew, by default all
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .tables import table

PATH = Path(__file__).with_suffix(".json")
TOLERANCE = 0.05
"""By which part bytes may exceed those of the table."""

PROGRAMS = {
    "tiny": ("v5e:1x1", "--data", "digits", "--family", "tiny"),
    "tiny, fml": ("v5e:1x1", "--data", "digits", "--family", "tiny", "--method", "fml"),
    "mlp,cnn": ("v5e:2x4", "--data", "digits", "--family", "mlp,cnn"),
}
"""By name the target, and flags of `protonorm compile`."""

SECONDS, BYTES = ("seconds", "cpu_seconds"), ("code", "temporaries")


def measure(names: Sequence[str] = tuple(PROGRAMS)) -> dict[str, Any]:
    """Compiles the programs that advance runs, each in a process of its own.

    Args:
      names: of `PROGRAMS`.

    Returns:
      By name `target`, `seconds` (of tracing and compiling), `cpu_seconds` (of the whole command),
      `code` and `temporaries` (bytes of a chip), and `recorded`, the same of the table; None where
      the table has none with these versions. Nothing at all where libtpu is not installed.
    """
    versions = _versions()
    if "libtpu" not in versions:
        return {}
    made = read()
    recorded = made["programs"] if made["versions"] == versions else {}
    return {name: _compiled(name) | {"recorded": recorded.get(name)} for name in names}


def excesses(figures: dict[str, Any]) -> list[str]:
    """In words what takes more bytes than the table allows; nothing if all is well."""
    found = []
    for name, row in figures.items():
        for kind in BYTES if row["recorded"] else ():
            most = row["recorded"][kind] * (1 + TOLERANCE)
            if row[kind] > most:
                found.append(
                    f"{name} must have <= {most:.0f} bytes of {kind} on {row['target']}, "
                    f"{1 + TOLERANCE:.2f} times those of {PATH.name}, got {row[kind]}"
                )
    return found


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    rows = [
        (
            name,
            row["target"],
            *(cell for kind in (*SECONDS, *BYTES) for cell in (row[kind], _ratio(row, kind))),
        )
        for name, row in figures.items()
    ]
    columns = " | ".join(
        f"{column} | ratio:.2f"
        for column in ("s:.0f", "CPU s:.0f", "code MiB:.2fM", "temp MiB:.2fM")
    )
    if not figures:
        caption = "libtpu is not installed: pip install 'protonorm_jax[aot]'"
    elif all(row["recorded"] for row in figures.values()):
        caption = "ratio: to the table"
    else:
        caption = "ratio: to the table, which has none where there is -, or is of other versions"
    return [table("Compiled for absent TPUs", f"program | target | {columns}", rows, caption)]


def read() -> dict[str, Any]:
    """The table: `versions`, and `programs` by name."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def _ratio(row: dict[str, Any], kind: str) -> float | None:
    recorded = (row["recorded"] or {}).get(kind)
    return row[kind] / recorded if recorded else None


def _versions() -> dict[str, str]:
    """Of what compiles; libtpu is left out where it is not installed."""
    versions = {}
    for name in ("jax", "libtpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _compiled(name: str) -> dict[str, Any]:
    """A row of the table, as `protonorm compile` says it."""
    target, *flags = PROGRAMS[name]
    command = (sys.executable, "-m", "protonorm_jax", "compile", "--target", target, *flags)
    before = os.times()
    found = subprocess.run(
        (*command, "--json"),
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {found.stderr}")
    (row,) = (one for one in json.loads(found.stdout)["programs"] if one["name"] == "rounds")
    after = os.times()
    cpu = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    return {
        "target": target,
        "seconds": round(row["seconds"], 1),
        "cpu_seconds": round(cpu, 1),
        **{kind: row["memory"][kind] for kind in BYTES},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.compilation")
    parser.add_argument("names", nargs="*", metavar="PROGRAM", help=f"of {'; '.join(PROGRAMS)}")
    names = parser.parse_args(arguments).names or list(PROGRAMS)
    for name in names:
        if name not in PROGRAMS:
            parser.error(f"PROGRAM must be one of {'; '.join(PROGRAMS)}, got {name!r}")
    figures = measure(names)
    console = Console(width=None if Console().is_terminal else 100)
    for one in tables(figures):
        console.print(one)
    if not figures:
        return 2
    made, versions = read(), _versions()
    # Rows of other versions would be held against what they are not of.
    programs = made["programs"] if made["versions"] == versions else {}
    for name, row in figures.items():
        programs[name] = {kind: row[kind] for kind in ("target", *SECONDS, *BYTES)}
    rows = {name: programs[name] for name in PROGRAMS if name in programs}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    text = f'{{"versions": {json.dumps(versions)}, "programs": {{\n{lines}\n}}}}\n'
    PATH.write_text(text, encoding="utf-8")
    console.print(f"written: {PATH}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
