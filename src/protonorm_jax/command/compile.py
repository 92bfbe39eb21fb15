"""The command `protonorm compile`: every program of a run or sweep, compiled and not run."""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protonorm_jax import report
from protonorm_jax.command import asked as asking
from protonorm_jax.command import flags, start
from protonorm_jax.command.console import Console
from protonorm_jax.command.paths import path
from protonorm_jax.command.progress import LoadDisplay
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices, least, targets
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import ahead, sweep, sweep_plan
from protonorm_jax.running.files import replacing, writing


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    group = parser.add_argument_group("compilation")
    group.add_argument(
        "--target",
        default=targets.HERE,
        metavar="{" + ",".join((targets.HERE, *targets.TOPOLOGIES, *targets.PLANNED)) + "}",
        help="what to compile for: the devices of this machine, or TPU chips "
        f"({targets.HERE}); a GPU that is not there with --dry-run alone",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object alone")
    group.add_argument(
        "--dump-hlo", type=path, metavar="DIR", help="write the compiled programs there, as text"
    )
    flags.add_sweep(parser)
    # As all flags of `run` and `sweep`; it is neither shown nor stopped.
    flags.add_training(parser)


def command(parsed: argparse.Namespace) -> int:
    """Plans and compiles, and says what the programs will need; returns the exit code.

    Raises:
      UsageError: settings that cannot be used, a target that cannot be compiled for, too little
        memory, or a folder that cannot be written.
    """
    asked = asking.read(parsed)
    target = _target(parsed)
    if target is None:
        start.start_up(parsed, asked.base.devices)
    folder = Path(parsed.dump_hlo) if parsed.dump_hlo else None
    if folder:
        with writing(folder, "--dump-hlo"):
            folder.mkdir(parents=True, exist_ok=True)
    out = Console(quiet=parsed.json or not devices.is_first())
    with LoadDisplay(out):
        if asked.budget:
            experiment = asking.plan_tuned(asked, target)
            assert experiment.tuning is not None
            planned = {"tuning": experiment.tuning, "final runs": experiment.final}
        else:
            planned = {"": asking.plan_sweep(asked, target)}
    for name, one in planned.items():
        out.print(report.plan_table(sweep_plan.description(one), name))
    rows: list[dict[str, Any]] = []
    began = time.perf_counter()
    if parsed.dry_run:
        rows = list(_counted(planned, target))
    else:
        for row, text in _compiled(planned, target):
            rows.append(row)
            if folder and devices.is_first():
                file_path = folder / f"{len(rows):02d}-{row['name'].replace(' ', '-')}.hlo.txt"
                with writing(folder, "--dump-hlo"), replacing(file_path) as file:
                    file.write(text.encode())
            out.say(f"{row['program']} {row['name']}: compiled in {row['seconds']:.1f} s")
    seconds = time.perf_counter() - began
    if parsed.json:
        if devices.is_first():
            print(json.dumps({"target": parsed.target, "seconds": seconds, "programs": rows}))
    elif parsed.dry_run:
        out.print(report.least_table(rows, parsed.target))
    else:
        out.print(report.compiled_table(rows, parsed.target))
        for line in report.padded_lines(rows):
            out.say(line)
        out.say(f"all of them, side by side: {seconds:.1f} s")
    return 0


def _target(parsed: argparse.Namespace) -> targets.Target | None:
    """The chips that are not there; None for the devices that are."""
    if parsed.target == targets.HERE:
        return None
    for name in ("distributed", "coordinator", "num_processes", "process_id"):
        if getattr(parsed, name):
            raise UsageError(
                f"--{name.replace('_', '-')} must be left out but for --target here, got "
                f"--target {parsed.target}"
            )
    if parsed.target in targets.PLANNED and not parsed.dry_run:
        raise UsageError(
            f"--target must be given with --dry-run where it is {parsed.target}: programs for a "
            "GPU are compiled where it is, by --target here"
        )
    return targets.absent(parsed.target)


def _described(planned: dict[str, sweep.Sweep]) -> Iterator[tuple[Plan, dict[str, Any]]]:
    """Each plan, and what there is to say of it before it is compiled."""
    for name, one in planned.items():
        every = zip(one.plans, sweep_plan.description(one), strict=True)
        for number, (plan, described) in enumerate(every, start=1):
            yield plan, {"program": f"{name} {number}".strip(), **described}


def _counted(
    planned: dict[str, sweep.Sweep], target: targets.Target | None
) -> Iterator[dict[str, Any]]:
    """For each program what there is to say of it, and what it costs at least."""
    for plan, described in _described(planned):
        chip = target.chip if target else targets.CHIPS.get(plan.devices[0].device_kind)
        yield {
            **described,
            "rounds": plan.program.config.rounds,
            "least": least.of_round(plan, chip)._asdict(),
        }


def _compiled(
    planned: dict[str, sweep.Sweep], target: targets.Target | None
) -> Iterator[tuple[dict[str, Any], str]]:
    """For each program what there is to say of it, and its text."""
    for plan, described in _described(planned):
        for compiled in ahead.compile_ahead(plan, target):
            yield {**described, **compiled.description()}, compiled.text
