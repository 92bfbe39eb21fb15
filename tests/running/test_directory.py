"""What is ours in a directory, and that one run gives way to another as one step."""

import functools
import json
import os
import pathlib
import shutil

import pytest

from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import directory as places
from protonorm_jax.running import files, holders, manifests

OLD = Config(rounds=3, method_settings={"scale": 2.0})
NEW = Config(rounds=9)
RECORDED = pathlib.Path(__file__).parent.parent / "golden" / "recorded_before"


def make_run(folder, config=OLD, *, names=places.FILES):
    """What a run leaves, as far as this room looks into it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{config.rounds} {name}")
    files.write_json(folder / "config.json", manifests.recorded_config(config))
    if "manifest.json" in names:
        files.write_json(folder / "manifest.json", {"versions": {}, "config_digest": "0"})
    return folder


def make_checkpoint(folder, number):
    (made := folder / "checkpoints" / str(number) / "document").mkdir(parents=True)
    (made / "metadata").write_text("{}")


def make_sweep(folder):
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / "sweep.json", {"base": OLD.to_dict(), "runs": [{}, {}]})
    (folder / "results.jsonl").write_text("{}\n")
    for name in ("0000", "0001"):
        make_run(folder / "runs" / name)
    return folder


def content(folder):
    """All files with what is in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(folder, **options):
    with pytest.raises(UsageError) as caught:
        places.check_free(folder, **{"overwrite": True} | options)
    return str(caught.value)


def test_only_results_of_ours_may_be_replaced(tmp_path):
    """Told by what is in the files, whoever recorded them, and whatever else is in there."""
    for number, folder in enumerate(
        (
            make_run(tmp_path / "run"),
            make_sweep(tmp_path / "sweep"),
            shutil.copytree(RECORDED / "run", tmp_path / "old run"),
            shutil.copytree(RECORDED / "sweep", tmp_path / "old sweep"),
            make_run(tmp_path / "killed", names=("config.json",)),
        )
    ):
        (folder / holders.NAME).touch()
        if number < 4:
            (folder / "notes.txt").write_text("mine")
        places.check_free(folder, overwrite=True)
        assert refused(folder, overwrite=False) == (
            f"--out must be a new or empty directory unless --overwrite is given, got '{folder}'"
        )
    for name, text in (("config.json", "{}"), ("manifest.json", "{}"), ("sweep.json", "[1]")):
        (folder := tmp_path / f"foreign {name}").mkdir()
        (folder / name).write_text(text)
        assert "which was not made by protonorm" in refused(folder)
    copied = make_run(tmp_path / "copied", names=("config.json",))
    (copied / "notes.txt").touch()  # A config of ours among files of another's.
    assert f"got '{copied}' with 'config.json', which was not made" in refused(copied)


def test_what_passes_does_not_make_a_directory_full(tmp_path):
    """Locks of processes that were killed, and what they had not finished."""
    for name in (
        holders.NAME,
        f"{holders.NAME}.after-0123456789abcdef",
        ".config.json.7-01234567.tmp",
    ):
        (tmp_path / name).touch()
    places.check_free(tmp_path, overwrite=False)
    assert places.is_empty(tmp_path) and places.is_empty(tmp_path / "none")
    (tmp_path / ".mine.tmp").touch()
    assert not places.is_empty(tmp_path)
    places.clean(tmp_path)
    assert (tmp_path / ".mine.tmp").exists()
    assert not list(tmp_path.glob(".config*"))
    (tmp_path / "file").touch()
    assert "must be a new or empty directory" in refused(tmp_path / "file")


def test_files_of_others_stay(tmp_path):
    """Also where they have the names of folders of ours."""
    folder = make_sweep(make_run(tmp_path / "both"))
    make_checkpoint(folder, 3)
    make_checkpoint(folder, "4.orbax-checkpoint-tmp")
    mine = ("notes.txt", "checkpoints/weights.bin", "checkpoints/best/x", "runs/notes.txt")
    mine += ("runs/2024/config.json", "runs/0001/notes.txt")
    for name in mine:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    places.check_free(folder, overwrite=True)
    places.replace(folder, "config.json", {"new": 1})
    wanted = {name: name.encode() for name in mine}
    assert content(folder) == wanted | {"config.json": b'{\n  "new": 1\n}\n'}
    make_run(folder)
    (folder / "checkpoints" / "7").mkdir()
    (folder / "checkpoints" / "7" / "weights.bin").touch()
    assert "checkpoints/7', which is no checkpoint of ours" in refused(folder)
    places.clear_checkpoints(folder)
    assert (folder / "checkpoints" / "7" / "weights.bin").exists()


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


def killed_at(monkeypatch, count, do):
    """Does something until the file system has been changed so often; whether it came to its end.

    What is done after that, such as to clean up, has no effect either.
    """
    left = [count]

    def guarded(function, *given, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return function(*given, **options)

    with monkeypatch.context() as patch:
        for owner, names in ((os, ("replace", "rmdir", "unlink")), (shutil, ("rmtree",))):
            for name in names:
                own = getattr(owner, name)
                patch.setattr(owner, name, lambda *g, own=own, **o: guarded(own, *g, **o))
        for name in ("unlink", "rmdir", "mkdir"):
            own = getattr(pathlib.Path, name)
            patch.setattr(pathlib.Path, name, lambda *g, own=own, **o: guarded(own, *g, **o))
        try:
            do()
        except Killed:
            return False
    return True


@pytest.mark.parametrize("kind", ["run by run", "sweep by run", "run by sweep", "by longer"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # Hundreds of them take their time.
    count, seen = 0, set()
    while True:
        folder = tmp_path / str(count)
        (make_sweep if kind.startswith("sweep") else make_run)(folder)
        make_checkpoint(folder, 3)
        if kind == "by longer":
            inner = make_run(folder / places.LONGER, NEW, names=places.FILES[:-1])
            make_checkpoint(inner, 9)
            do = functools.partial(places.replace_by_longer, folder)
        else:
            name = "sweep.json" if kind.endswith("sweep") else "config.json"
            described = {"base": {}, "runs": []} if name == "sweep.json" else NEW.to_dict()
            do = functools.partial(places.replace, folder, name, described)
        before = content(folder)
        ended = killed_at(monkeypatch, count, do)
        # Killed again, while another process goes on with it.
        new = (folder / places.REPLACEMENT).exists()
        if new:
            killed_at(monkeypatch, count % 5, lambda folder=folder: places.complete(folder))
        places.complete(folder)
        places.clean(folder)
        after = content(folder)
        if not ended and not new and after == before:
            seen.add("old")
        else:
            seen.add("new")
            assert places.holds_results(folder)
            if kind == "by longer":
                assert json.loads((folder / "config.json").read_text())["rounds"] == 9
                assert {name.partition("/")[0] for name in after} == {
                    *places.FILES[:-1],
                    "checkpoints",
                }
                assert after["metrics.jsonl"] == b"9 metrics.jsonl"
                assert [path.name for path in (folder / "checkpoints").iterdir()] == ["9"]
            else:
                assert list(after) == [name]
        count += 1
        if ended:
            break
    assert seen == {"old", "new"} and count > 10


def test_a_file_is_whole_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """First the file is synced, then renamed, then the folder is synced."""
    calls = []
    for name in ("fsync", "replace"):
        own = getattr(os, name)

        def noting(*given, own=own, name=name):
            folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{given[0]}")
            calls.append("folder" if folder else name)
            return own(*given)

        monkeypatch.setattr(os, name, noting)
    with files.replacing(tmp_path / "x") as file:
        file.write(b"1")
        (temporary,) = tmp_path.iterdir()
        assert str(os.getpid()) in temporary.name and files.is_temporary(temporary)
    assert calls == ["fsync", "replace", "folder"]
    with pytest.raises(ValueError), files.replacing(tmp_path / "x") as file:
        raise ValueError
    assert content(tmp_path) == {"x": b"1"}


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    value = {"a": float("nan"), "b": [1.5, float("-inf"), "x"], "c": {"d": (float("inf"), 2)}}
    files.write_json(tmp_path / "x.json", value)
    files.append_line(tmp_path / "x.jsonl", value)
    wanted = {"a": None, "b": [1.5, None, "x"], "c": {"d": [None, 2]}}
    assert json.loads((tmp_path / "x.json").read_text()) == wanted
    assert json.loads((tmp_path / "x.jsonl").read_text()) == wanted


def make_models(folder, round_index, *, clients=2):
    folder.mkdir(parents=True)
    for client in range(clients):
        (folder / f"client_{client:04d}.safetensors").write_text(f"{round_index} {client}")
    (folder / "models.json").write_text(f"{round_index}")


def test_models_go_with_the_run(tmp_path):
    """But not what others have put beside them."""
    run = make_run(tmp_path / "run")
    make_models(run / "models", 3)
    make_models(run / ".models" / "2", 2)
    (run / "models" / "notes.txt").write_text("mine")
    assert places.holds_results(run)
    places.replace(run, "config.json", NEW.to_dict())
    assert set(content(run)) == {"config.json", "models/notes.txt"}
    make_models(run / ".models" / "4", 4)
    places.remove(run)
    assert set(content(run)) == {"models/notes.txt"}


def test_a_run_that_has_written_models_before_anything_else_is_ours(tmp_path):
    run = make_run(tmp_path / "run", names=())
    make_models(run / ".models" / "2", 2)
    assert places.holds_results(run)


@pytest.mark.parametrize("killed", [None, 0, 1])
def test_models_of_a_longer_run_take_the_place_of_the_shorter_ones(tmp_path, monkeypatch, killed):
    """Also if a kill comes after some of the moves."""
    run = make_run(tmp_path / "run")
    make_models(run / "models", 3)
    make_models(run / ".models" / "2", 2)
    longer = make_run(run / places.LONGER, NEW)
    make_models(longer / "models", 8)
    make_models(longer / ".models" / "6", 6)
    wanted = {
        name: one for name, one in content(longer).items() if name.startswith((".models", "models"))
    }
    moves = []

    def replace(source, target, move=os.replace):
        if "client_" in str(source):
            if killed is not None and len(moves) == killed:
                raise KeyboardInterrupt
            moves.append(source)
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        if killed is not None:
            with pytest.raises(KeyboardInterrupt):
                places.replace_by_longer(run)
        else:
            places.replace_by_longer(run)
    places.complete(run)
    found = {n: one for n, one in content(run).items() if n.startswith((".models", "models"))}
    assert found == wanted and not longer.exists()
