"""Which dashboards a run, sweep or tuned experiment has, and as what they know its runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protonorm_jax import dashboards
from protonorm_jax.config import Config
from protonorm_jax.dashboards import folders
from protonorm_jax.running import directory as places
from protonorm_jax.running import files, forms, reading


def check(directory: Path, names: Sequence[str]) -> None:
    """Refuses dashboards that cannot be had.

    Args:
      directory: of the results.
      names: of the dashboards.

    Raises:
      UsageError: there is no such dashboard, it is not installed, or its folder is somebody else's.
    """
    dashboards.check(names)
    folders.check(directory, names)


def asked(
    directory: Path, names: Sequence[str] | None, *, folder: Path | None = None
) -> Sequence[str]:
    """The dashboards with which to go on, see `check`.

    Args:
      directory: of the results.
      names: of the dashboards; None for those that are recorded.
      folder: where the dashboards keep files; the directory if left out.

    Raises:
      UsageError: they cannot be had.
    """
    result = _recorded(directory).get("names", []) if names is None else names
    check(folder or directory, result)
    return result


def begin(
    directory: Path,
    names: Sequence[str],
    *,
    goes_on: bool = False,
    folder: Path | None = None,
) -> dashboards.Session:
    """Opens the dashboards of a run or sweep, and records which they are.

    Args:
      directory: of the results.
      names: of the dashboards.
      goes_on: whether they are to know the runs again.
      folder: where the dashboards keep files; the directory if left out.

    Raises:
      UsageError: something cannot be written.
    """
    known = _recorded(directory) if goes_on else {}
    session = dashboards.Session(names, folder or directory, known.get("token"))
    found = {"names": list(session.names), "token": session.token}
    if found != known and (names or known):
        with files.writing(directory):
            files.write_json(directory / places.DASHBOARDS, found)
    return session


def run(session: dashboards.Session, directory: Path, config: Config) -> dashboards.Log:
    """Shows a run alone from now on."""
    return session.start(directory.resolve().name, _settings(config))


def run_of_sweep(
    session: dashboards.Session,
    directory: Path,
    name: str,
    config: Config,
    swept: Mapping[str, Any],
) -> dashboards.Log:
    """Shows a run of a sweep from now on.

    Args:
      session: of the sweep, or of the experiment that the sweep is in.
      directory: of the sweep.
      name: of the run in the sweep.
      config: of the run.
      swept: the settings by which it differs from others.
    """
    part = directory.name if directory != session.folder else ""
    key = f"{part}-{name}" if part else name
    around = session.folder.resolve().name
    words = [key, *(f"{setting}={value}" for setting, value in swept.items())]
    return session.start(
        ",".join(words),
        _settings(config),
        key=key,
        group=f"{around}-{part}" if part else around,
        swept=swept,
    )


def _settings(config: Config) -> dict[str, Any]:
    """All settings in one mapping, those of the method as in a grid: `fedtgp.margin`."""
    values = config.to_dict()
    own = values.pop("method_settings")
    return values | {f"{config.method}.{name}": value for name, value in own.items()}


def _recorded(directory: Path) -> dict[str, Any]:
    """What is recorded of dashboards; nothing where there are none."""
    path = directory / places.DASHBOARDS
    return reading.read(path, forms.dashboards) if path.exists() else {}
