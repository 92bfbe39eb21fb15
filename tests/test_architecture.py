"""Who may import whom: read from the source, so that a wall cannot be crossed unseen."""

import ast
import pathlib

import pytest

import protonorm_jax

ROOT = pathlib.Path(protonorm_jax.__file__).parent
GROUND = {"errors", "types"}  # Open to all but each other.
# Room: the other rooms it may import. A folder is one room here; what stands within `engine`,
# `planning` and `running` has an order of its own below.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "keys": set(),
    "scopes": set(),
    "json_files": set(),
    "documents": {"json_files"},
    "settings": set(),
    "config": {"documents", "json_files", "settings"},
    "metrics": set(),
    "partition": set(),
    "data": {"partition"},
    "thomson": set(),
    "models": set(),
    "report": {"metrics", "statistics"},
    "statistics": {"metrics"},
    "dashboards": set(),
    "methods": {"config", "scopes", "settings", "thomson"},
    "engine": {"config", "keys", "methods", "scopes"},
    "loop": {"engine", "keys", "methods"},
    "trained": {"config", "data", "engine", "json_files", "keys", "methods", "models"},
    "planning": {
        *("config", "data", "engine", "keys", "methods", "metrics"),
        *("models", "partition", "scopes", "settings", "trained"),
    },
    "running": {
        *("config", "dashboards", "documents", "engine", "json_files", "keys", "methods"),
        *("metrics", "planning", "report", "settings", "statistics", "trained"),
    },
    "command": {
        *("config", "dashboards", "data", "keys", "methods", "metrics", "planning", "report"),
        *("running", "settings", "statistics", "thomson", "trained"),
    },
    "__main__": {"command"},
    "__init__": {"config", "running", "trained"},
}
# Within a folder, a file may import those before it.
ORDER = {
    "config": ("dealing", "training", "shown", "fields", "recorded", "given", "written"),
    "engine": (
        *("compiling", "loops", "lockstep", "augment", "batches", "client", "evaluate"),
        *("exchange", "draws", "participation", "cohort", "absent", "program", "rounds"),
        *("simulate", "keeping"),
    ),
    "planning": (
        *("samples", "deal", "devices", "targets", "layout", "shapes", "hooks", "tiles", "traced"),
        *(
            "memory",
            "need",
            "added",
            "tpu_forms",
            "arrangement",
            "starting",
            "at_a_time",
            "plan",
            "inputs",
        ),
        *("hlo", "padding", "costs", "least"),
    ),
    "running": (
        *("files", "holders", "lock", "directory", "forms", "reading", "states", "records"),
        *("selection", "frames", "logs", "programs", "fetching", "progress", "driver"),
        *("conditions", "ahead", "comparing", "holdings", "manifests", "kept_models", "record"),
        *("sweep_record", "checkpoint", "stopping"),
        *("training", "job", "grid", "sweep_plan", "sweep", "shards", "points", "choices"),
        *("tuning", "runs", "experiments", "verify", "verify_sweeps"),
    ),
    "trained": ("files", "clients"),
    "dashboards": ("dashboard", "folders", "mlflow", "session", "tensorboard", "wandb"),
    "statistics": ("intervals", "runs", "comparison", "tables", "tuning"),
    "command": (
        *(
            "console",
            "environment",
            "paths",
            "values",
            "parser",
            "flags",
            "interruption",
            "progress",
        ),
        *("progress", "start", "outputs", "asked", "tuned"),
        *("thomson", "export", "partition", "report", "compile", "run", "sweep", "resume"),
        *("verify", "compare", "predict", "methods", "status", "list", "commands", "cli"),
    ),
}
NO_JAX = (
    *("data", "documents", "json_files", "partition", "metrics", "settings", "config", "errors"),
    "report",
    "statistics",
    "dashboards",
)
WRITERS = (
    *("dashboards", "data", "running/files", "running/lock", "running/directory", "running/record"),
    *("running/kept_models", "running/sweep_record"),
    *("command/thomson", "command/partition", "command/compile"),
)


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def place_of(path):
    """As in `WRITERS`: the folder, or the folder and the file."""
    inside = path.relative_to(ROOT).as_posix().removesuffix(".py")
    return inside if inside in WRITERS else room_of(path)


def rooms():
    return sorted({room_of(path) for path in files()})


def files(room=None):
    return [path for path in ROOT.rglob("*.py") if room in (None, room_of(path))]


def imports(path):
    """The dotted names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path):
    """The rooms that a file imports."""
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "protonorm_jax" and rest:
            room = rest.split(".")[0]
            if room in ALLOWED:
                yield room


def test_every_room_is_known():
    assert [room for room in rooms() if room not in ALLOWED] == []
    for folder, order in ORDER.items():
        assert {path.stem for path in files(folder)} == {"__init__", *order}


@pytest.mark.parametrize("room", rooms())
def test_no_wall_is_crossed(room):
    allowed = ALLOWED[room] | (GROUND if room != "errors" else set()) | {room}
    for path in files(room):
        assert set(ours(path)) <= allowed, path


@pytest.mark.parametrize("folder", ORDER)
def test_files_of_a_folder_have_an_order(folder):
    for number, name in enumerate(ORDER[folder]):
        path = ROOT / folder / f"{name}.py"
        prefix = f"protonorm_jax.{folder}."
        found = {
            n.removeprefix(prefix).split(".")[0] for n in imports(path) if n.startswith(prefix)
        }
        assert found <= set(ORDER[folder][:number]), path


@pytest.mark.parametrize("room", NO_JAX)
def test_host_side_rooms_know_no_jax(room):
    for path in files(room):
        assert "jax" not in {name.split(".")[0] for name in imports(path)}, path


def test_src_does_not_know_experiments_nor_torch():
    for path in files():
        assert {"experiments", "torch"}.isdisjoint(name.split(".")[0] for name in imports(path))


def test_a_client_knows_no_federation():
    """One client's update must not speak of servers, devices, rounds or client ids."""
    names = {
        node.id if isinstance(node, ast.Name) else node.arg
        for path in [ROOT / "engine" / f"{name}.py" for name in ("client", "evaluate")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name | ast.arg)
    }
    assert names.isdisjoint({"server", "devices", "round_index", "client_id", "client_ids"})


def test_keys_are_derived_in_one_place():
    """Outside of `keys`, a key is only split or, within one client's round, folded by the step."""
    for path in files():
        calls = {name.split(".")[-1] for name in called(path) if name.startswith("jax.random")}
        if room_of(path) not in ("keys", "models") and path.name not in ("client.py", "loop.py"):
            assert "fold_in" not in calls, path
        if room_of(path) not in ("keys", "models", "thomson"):
            assert "key" not in calls and "PRNGKey" not in calls, path


def called(path):
    """Dotted names of everything that a file calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_only_a_few_rooms_write_files():
    for path in files():
        if place_of(path) in WRITERS:
            continue
        for name in called(path):
            last = name.split(".")[-1]
            assert last not in ("write_text", "write_bytes", "mkdir", "unlink", "savez"), path
            assert name != "open", path
