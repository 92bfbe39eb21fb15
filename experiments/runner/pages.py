"""One page of all experiments of a folder."""

from collections.abc import Sequence
from pathlib import Path

from experiments.runner import place
from protonorm_jax.command import cli, console
from protonorm_jax.running import directory as places

PAGE = "page.html"


def write(folder: Path, names: Sequence[str], out: console.Console) -> int:
    """Has `protonorm report` write the page of what is finished; returns its exit code.

    Args:
      folder: of the experiments.
      names: of those that are to be on the page, if they are sweeps that are finished.
      out: told where the page is.
    """
    sweeps = [folder / name for name in names if (folder / name / places.SWEEP).exists()]
    finished = [one for one in sweeps if place.state(one) is place.State.FINISHED]
    if not finished:
        return 0
    page = folder / PAGE
    title = f"{len(finished)} experiments in {folder}"
    words = ["report", *map(str, finished), "--apart", "--title", title, "--out", str(page)]
    code = cli.main(words)
    if not code:
        out.say(f"the page is {page}")
    return code
