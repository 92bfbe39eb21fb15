"""The command `protonorm partition`: deals samples, and writes and shows who holds what."""

import argparse
from pathlib import Path

from protonorm_jax import metrics, report
from protonorm_jax.command import flags
from protonorm_jax.command.console import Console
from protonorm_jax.data import partitions
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import samples
from protonorm_jax.running.files import replacing, writing


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="ends in .json or .npz; for --partition file:FILE",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out and --picture")
    parser.add_argument("--picture", metavar="FILE.png", help="of who holds what (beside --out)")
    flags.add_settings(parser, sections=("data",), names=("seed",))
    parser.set_defaults(config=None)


def command(parsed: argparse.Namespace) -> int:
    """Deals the samples, writes them and shows who holds what; returns the exit code.

    Raises:
      UsageError: a setting, file or data set that cannot be used; or a place that is taken or
        cannot be written.
    """
    chosen = flags.chosen(parsed)
    out = Path(parsed.out).expanduser()
    picture = Path(parsed.picture).expanduser() if parsed.picture else out.with_suffix(".png")
    partitions.check_form(out)
    if picture.suffix.lower() != ".png":
        raise UsageError(f"--picture must end in .png, got {parsed.picture!r}")
    for flag, path in (("--out", out), ("--picture", picture)):
        if path.exists() and not (parsed.overwrite and path.is_file()):
            raise UsageError(f"{flag} must be a new file unless --overwrite is given, got {path}")
    selected = samples.DataSets().of(chosen)
    dealt, dataset = samples.share(chosen, selected), selected.dataset
    train, test = (
        metrics.class_counts(dealt.partition, dataset.labels, dataset.num_classes, side=side)
        for side in ("train", "test")
    )
    partitions.write(out, dealt.partition, dataset.labels)
    with writing(picture.parent):
        picture.parent.mkdir(parents=True, exist_ok=True)
        with replacing(picture) as file:
            report.draw_clients(train, test, file)
    console = Console()
    console.print(report.clients_table(train, test, dealt.names))
    total = (
        f"{len(train)} clients hold {train.sum():,} training and {test.sum():,} test samples, in "
        "the table together by class"
    )
    for line in (total, *dealt.notes, f"Written to {out}, drawn in {picture}"):
        console.say(line)
    return 0
