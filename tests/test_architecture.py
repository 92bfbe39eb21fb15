"""Who may import whom: read from the source, so that a wall cannot be crossed unseen."""

import ast
import pathlib

import pytest

import protonorm_jax

ROOT = pathlib.Path(protonorm_jax.__file__).parent
FREE = {"errors", "types"}
# Room: the other rooms it may import. `errors` and `types` are open to all but `errors` itself.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "config": set(),
    "keys": set(),
    "data": set(),
    "partition": set(),
    "models": set(),
    "thomson": set(),
    "lockstep": set(),
    "batches": {"lockstep"},
    "prototypes": set(),
    "methods": {"prototypes", "thomson"},
    "local": {"batches", "config", "lockstep", "methods"},
    "evaluate": {"batches", "methods"},
    "metrics": set(),
    "layout": {"lockstep"},
    "simulate": {"config", "evaluate", "keys", "layout", "local", "methods"},
    "devices": {"data"},
    "memory": {"keys", "layout", "local", "simulate"},
    "plan": {
        "config",
        "data",
        "devices",
        "keys",
        "layout",
        "local",
        "memory",
        "methods",
        "models",
        "partition",
        "simulate",
    },
    "driver": {"config", "devices", "layout", "metrics", "plan", "simulate"},
    "report": set(),
    "record": {"driver", "keys", "plan", "report"},
    "checkpoint": {"config", "devices", "driver", "plan"},
    "job": {"checkpoint", "config", "devices", "driver", "plan", "record"},
    "sweep": {"checkpoint", "config", "devices", "driver", "job", "plan", "record"},
    "verify": {"driver", "job", "plan", "record"},
    "progress": {"config", "driver", "plan"},
    "sphere": {"devices", "keys", "record", "report", "thomson"},
    "flags": {"config", "sphere"},
    "cli": {
        "config",
        "devices",
        "flags",
        "job",
        "progress",
        "record",
        "report",
        "sphere",
        "sweep",
        "verify",
    },
    "__main__": {"cli"},
    "__init__": {"config", "driver"},
}
NO_JAX = ("data", "partition", "metrics", "config", "errors", "report")
WRITERS = ("checkpoint", "data", "record", "sphere")


def rooms():
    return sorted({path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files()})


def files(room=None):
    found = [path for path in ROOT.rglob("*.py")]
    if room is None:
        return found
    return [p for p in found if p.relative_to(ROOT).parts[0].removesuffix(".py") == room]


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


@pytest.mark.parametrize("room", rooms())
def test_no_wall_is_crossed(room):
    allowed = ALLOWED[room] | (FREE if room != "errors" else set()) | {room}
    for path in files(room):
        assert set(ours(path)) <= allowed, path


@pytest.mark.parametrize("room", NO_JAX)
def test_host_side_rooms_know_no_jax(room):
    for path in files(room):
        assert "jax" not in {name.split(".")[0] for name in imports(path)}, path


def test_src_does_not_know_experiments_nor_torch():
    for path in files():
        assert {"experiments", "torch"}.isdisjoint(name.split(".")[0] for name in imports(path))


def test_local_knows_no_federation():
    """One client's update must not speak of servers, devices, rounds or client ids."""
    names = {
        node.id if isinstance(node, ast.Name) else node.arg
        for path in files("local") + files("evaluate")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name | ast.arg)
    }
    assert names.isdisjoint({"server", "devices", "round_index", "client_id", "client_ids"})


def test_keys_are_derived_in_one_place():
    """Outside of `keys`, a key is only split or, within one client's round, folded by the step."""
    for path in files():
        calls = {name.split(".")[-1] for name in called(path) if name.startswith("jax.random")}
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room not in ("keys", "local", "models"):
            assert "fold_in" not in calls, path
        if room not in ("keys", "models", "thomson", "sphere"):
            assert "key" not in calls and "PRNGKey" not in calls, path


def called(path):
    """Dotted names of everything that a file calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_only_a_few_rooms_write_files():
    for path in files():
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in WRITERS:
            continue
        for name in called(path):
            last = name.split(".")[-1]
            assert last not in ("write_text", "write_bytes", "mkdir", "unlink", "savez"), path
            assert name != "open", path
