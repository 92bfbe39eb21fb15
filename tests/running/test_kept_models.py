"""Models that a run keeps: what is written, what predicts, and what a run can start from."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from test_checkpoint import Watcher, terminate

import protonorm_jax
from protonorm_jax import config, models
from protonorm_jax.config import Config
from protonorm_jax.errors import Caution, UsageError
from protonorm_jax.planning import samples
from protonorm_jax.running import directory as places
from protonorm_jax.running import driver, job, reading, sweep, verify, verify_sweeps
from recorded import SMALL, assert_same

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

LAST = SMALL.replace(
    **{"family": "mlp", "num_clients": 5, "feature_dim": 8, "rounds": 6, "participation": 1.0},
    **{"dropout": 0.0, "keep_models": "last", "validation_fraction": 0.2, "learning_rate": 0.3},
)
SELECTED = LAST.replace(keep_models="selected")


@pytest.fixture(scope="module")
def last(small_set, tmp_path_factory):
    directory = tmp_path_factory.mktemp("last")
    job.run(LAST, directory, display=Watcher(), dataset=small_set)
    return directory


@pytest.fixture(scope="module")
def selected(small_set, tmp_path_factory):
    directory = tmp_path_factory.mktemp("selected")
    job.run(SELECTED, directory, display=Watcher(), dataset=small_set)
    return directory


def kept(directory):
    """All files of the models, by name."""
    folder = directory / "models"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def counted(directory, small_set):
    """Of each predictor, right predictions of each client on its test samples, as loaded."""
    settings = config.load(directory / "config.json")
    parts = samples.share(settings, samples.DataSets(small_set).of(settings)).partition
    clients = protonorm_jax.load_models(directory)
    result = {}
    for by in clients[0].predictors:
        result[by] = []
        for one, rows, count in zip(clients, parts.test, parts.test_count, strict=True):
            scores = one.predict(small_set.images[rows[:count]], by)
            assert scores.shape == (count, 5) and scores.dtype == np.float32
            right = scores.argmax(axis=1) == small_set.labels[rows[:count]]
            result[by].append(int(right.sum()))
    return result


@pytest.mark.parametrize("which", ["last", "selected"])
def test_loaded_clients_predict_what_the_run_has_counted(which, small_set, request):
    directory = request.getfixturevalue(which)
    recorded = reading.read_arrays(directory)["clients.npz"]
    place = {"selected": 0, "last": 1}[which]
    (first,) = {one.round for one in protonorm_jax.load_models(directory)}
    assert first == recorded["rounds"][place]
    for by, right in counted(directory, small_set).items():
        assert right == recorded[f"{by}_correct"][place, :, 0].tolist()
    assert recorded["rounds"].tolist() != [6, 6]  # Else both would be the same.


def test_files_are_named_by_paths_and_described(last):
    described = json.loads((last / "models" / "models.json").read_text())
    files = kept(last)
    assert set(files) == {
        *("models.json", "server.safetensors"),
        *(f"client_{i:04d}.safetensors" for i in range(5)),
    }
    for one in described["clients"]:
        assert hashlib.sha256(files[one["file"]]).hexdigest() == one["sha256"]
        arrays = safetensors.numpy.load(files[one["file"]])
        assert arrays["model/params/head/kernel"].shape == (8, 5)
    assert described["round"] == 6 and described["image_shape"] == [8, 8, 1]
    manifest = reading.read_manifest(last)
    assert described["data_digest"] == manifest["data_digest"]
    held = [one["train_by_class"] for one in manifest["clients"]]
    assert [one["train_by_class"] for one in described["clients"]] == held
    sent = safetensors.numpy.load(files["server.safetensors"])
    prototypes = reading.read_arrays(last)["prototypes.npz"]["prototypes"]
    np.testing.assert_allclose(sent["sent/vectors"], 4 * prototypes, rtol=1e-6)
    assert not (last / places.SELECTED).exists()


@pytest.mark.large
def test_models_do_not_change_the_run(last, small_set, tmp_path):
    job.run(LAST.replace(keep_models="none"), tmp_path, display=Watcher(), dataset=small_set)
    assert_same(last, tmp_path)
    assert not (tmp_path / "models").exists()
    with pytest.raises(UsageError, match=r"DIR must be .* kept models \(protonorm run --keep-"):
        protonorm_jax.load_models(tmp_path)


@pytest.mark.large
def test_devices_do_not_change_the_models(last, small_set, tmp_path):
    job.run(LAST.replace(devices=3), tmp_path, display=Watcher(), dataset=small_set)
    assert kept(tmp_path) == kept(last)


@pytest.mark.large
@pytest.mark.parametrize("devices", [(3, 1), pytest.param((1, 2), marks=pytest.mark.large)])
def test_a_run_that_goes_on_keeps_the_same_models(selected, small_set, tmp_path, devices):
    """Also those of a round before the checkpoint, and from and on any number of devices."""
    best = json.loads((selected / "models" / "models.json").read_text())["round"]
    assert 1 <= best < 5, "the best round must come before the stop"
    settings, watcher = SELECTED.replace(devices=devices[0]), Watcher(5, terminate)
    summary = job.run(settings, tmp_path, display=watcher, dataset=small_set)
    assert summary["status"] == "stopped" and not (tmp_path / "models").exists()
    assert (tmp_path / places.SELECTED / str(best) / "models.json").exists()
    job.resume(tmp_path, display=Watcher(), num_devices=devices[1], dataset=small_set)
    assert kept(tmp_path) == kept(selected)
    assert not (tmp_path / places.SELECTED).exists()


@pytest.mark.large
def test_a_kill_between_models_and_summary(selected, small_set, tmp_path):
    """What is in its place already is what the run goes on from."""
    job.run(SELECTED, tmp_path, display=Watcher(5, terminate), dataset=small_set)
    shutil.rmtree(tmp_path / places.SELECTED)
    with pytest.raises(UsageError, match=r"must hold the models of round \d, got none; remove"):
        job.resume(tmp_path, display=Watcher(), dataset=small_set)
    shutil.copytree(selected / "models", tmp_path / "models")
    job.resume(tmp_path, display=Watcher(), dataset=small_set)
    assert kept(tmp_path) == kept(selected)


@pytest.mark.large
def test_a_longer_run_keeps_the_models_of_its_best_round(small_set, tmp_path):
    """As a run of so many rounds from the start would."""
    settings = SELECTED.replace(eval_every=2, keep_state=True)
    short, whole = tmp_path / "short", tmp_path / "whole"
    job.run(settings.replace(rounds=3), short, display=Watcher(), dataset=small_set)
    watcher = Watcher()
    job.extend(short, 5, display=watcher, dataset=small_set, say=pytest.fail)
    job.run(settings.replace(rounds=5), whole, display=Watcher(), dataset=small_set)
    assert watcher.first == 3 and kept(short) == kept(whole)
    assert not (short / places.LONGER).exists()


@pytest.mark.large
def test_verify_compares_the_models(last, small_set, tmp_path):
    found = verify.run(last, display=Watcher(), dataset=small_set)
    names = [name for name in found.files if name.startswith("models/")]
    assert len(names) == 6 and found.identical
    other = shutil.copytree(last, tmp_path / "other")
    _change(other, 3)
    found = verify.run(other, display=Watcher(), dataset=small_set)
    differing = {name for name, differences in found.files.items() if differences}
    assert differing == {"models/client_0003.safetensors"} and not found.identical


def _change(directory, client):
    """Another weight, under a digest that fits."""
    path = directory / "models" / f"client_{client:04d}.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays["model/params/head/bias"][0] += 1.0
    path.write_bytes(safetensors.numpy.save(arrays))
    described = json.loads((directory / "models" / "models.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    described["clients"][client]["sha256"] = digest
    (directory / "models" / "models.json").write_text(json.dumps(described))


def test_damaged_files_are_refused(last, tmp_path):
    other = shutil.copytree(last, tmp_path / "other")
    path = other / "models" / "client_0002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    clients = protonorm_jax.load_models(other)
    assert clients[1].variables["params"]["head"]["bias"].shape == (5,)
    with pytest.raises(UsageError, match=r"client_0002.* must be whole.*SHA-256"):
        _ = clients[2].variables
    (other / "models" / "models.json").write_text('{"format": 9}')
    with pytest.raises(UsageError, match=r"format must be 1, got 9"):
        protonorm_jax.load_models(other)


def test_loaded_variables_are_those_of_the_model(last, small_set):
    one = protonorm_jax.load_models(last)[4]
    assert (one.client, one.architecture, one.num_classes) == (4, "mlp", 5)
    assert one.image_shape == (8, 8, 1) and one.predictor == "prototype"
    model = models.build("mlp", num_classes=5, feature_dim=8, image_shape=(8, 8, 1))
    images = small_set.images[:3] / np.float32(127.5) - np.float32(1)
    logits = model.apply(one.variables, images)[0].logits
    found = one.predict(small_set.images[:3], "head")
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    for floats in (small_set.images / np.float32(255), small_set.images.astype(np.float64)):
        np.testing.assert_array_equal(one.predict(floats[:3], "head"), found)
    assert one.predict(small_set.images[:0]).shape == (0, 5)


def test_what_cannot_be_predicted_is_refused(last, small_set):
    one = protonorm_jax.load_models(last)[0]
    with pytest.raises(UsageError, match=r"by must be one of head, prototype for method proto.*'m"):
        one.predict(small_set.images, by="mentee")
    with pytest.raises(UsageError, match=r"images must be \[B, 8, 8, 1\], got \[240, 8, 8\]"):
        one.predict(small_set.images[..., 0])
    with pytest.raises(UsageError, match=r"images must hold pixels in .*got 0..300"):
        one.predict(np.linspace(0, 300, 64).reshape(1, 8, 8, 1))


@pytest.mark.large
@pytest.mark.parametrize("method", ["fedavg", "fedkd", "fedgen", "fedmrl"])
def test_what_the_server_sent_is_in_what_is_kept(method, small_set, tmp_path):
    plain = LAST.to_dict() | {"num_clients": 3, "rounds": 2, "validation_fraction": 0.0}
    settings = Config(**plain | {"method": method, "method_settings": {}})
    job.run(settings, tmp_path, display=Watcher(), dataset=small_set)
    check_counts(tmp_path, small_set)


def check_counts(directory, small_set):
    """A method that does not predict by prototypes counts right what its files predict."""
    recorded = reading.read_arrays(directory)["clients.npz"]
    for by, right in counted(directory, small_set).items():
        assert right == recorded[f"{by}_correct"][-1, :, 0].tolist()
    described = json.loads((directory / "models" / "models.json").read_text())
    assert described["server"] is None


@pytest.mark.large
def test_runs_of_a_sweep_keep_their_own(selected, small_set, tmp_path):
    """One that diverges keeps none, and says so; all can be verified."""
    with pytest.warns(Caution, match=r"no models are kept of a run that has failed"):
        rows = sweep.run(SELECTED, {"learning_rate": [0.3, 1e30]}, tmp_path, dataset=small_set)
    assert [row["status"] for row in rows] == ["finished", "failed"]
    finished, failed = tmp_path / "runs" / "0000", tmp_path / "runs" / "0001"
    assert kept(finished) == kept(selected)
    assert not (failed / "models").exists() and not (failed / places.SELECTED).exists()
    found = verify_sweeps.sweep(tmp_path, show=lambda planned: _Silently(), dataset=small_set)
    assert found.identical
    assert "models/client_0000.safetensors" in found.runs[0].files


class _Silently(Watcher):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_round_is_selected_only_where_there_is_one():
    with pytest.raises(UsageError, match=r"keep_models must be last or none with validation_f"):
        Config(keep_models="selected")


START = LAST.replace(rounds=1, seed=3)


@pytest.fixture(scope="module")
def started(last, small_set, tmp_path_factory):
    directory = tmp_path_factory.mktemp("started")
    settings = START.replace(init_from=str(last))
    job.run(settings, directory, display=Watcher(), dataset=small_set)
    return directory


def first_state(settings, small_set):
    """What clients hold before the first round, by client."""
    simulation = driver.prepare([settings], small_set)
    given = simulation.put(simulation.inputs(0))
    found = simulation.trained(simulation.init(given), given, 0)
    return dict(found.clients)


def test_clients_start_with_what_was_kept(last, small_set, tmp_path):
    """Each with its own, on several devices; the mentee starts as ever, and is kept, too."""
    plain = START.to_dict() | {"method": "fml", "method_settings": {}}
    plain |= {"init_from": str(last), "devices": 3, "learning_rate": 1e-30}  # Nothing changes.
    job.run(Config(**plain), tmp_path, display=Watcher(), dataset=small_set)
    pairs = zip(*map(protonorm_jax.load_models, (last, tmp_path)), strict=True)
    for source, one in pairs:
        jax.tree.map(np.testing.assert_array_equal, source.variables, one.variables)
        mentee = one.state.params["shared"]["head"]["kernel"]
        assert mentee.std() > 0.01 and not np.array_equal(
            mentee, one.state.params["model"]["head"]["kernel"]
        )
    check_counts(tmp_path, small_set)


@pytest.mark.large
@pytest.mark.parametrize("devices", [1, 3])
def test_what_a_method_has_beside_the_net_is_drawn(devices, last, small_set):
    plain = START.to_dict() | {"method": "fml", "method_settings": {}, "devices": devices}
    states = first_state(Config(**plain | {"init_from": str(last)}), small_set)
    drawn = first_state(Config(**plain), small_set)
    for client, state in states.items():
        beside = [one.params["shared"] for one in (state, drawn[client])]
        jax.tree.map(np.testing.assert_array_equal, *beside)


@pytest.mark.large
def test_an_average_model_starts_from_client_0(last, small_set):
    values = START.to_dict() | {"method": "fedavg", "method_settings": {}, "init_from": str(last)}
    states = first_state(Config(**values), small_set)
    wanted = protonorm_jax.load_models(last)[0].variables["params"]
    for state in states.values():
        jax.tree.map(np.testing.assert_array_equal, state.params["model"], wanted)


@pytest.mark.large
def test_a_start_is_recorded_and_has_the_same_bits_anywhere(started, last, small_set, tmp_path):
    assert len(reading.read_manifest(started)["initial_digest"]) == 64
    sweep.run(
        START.replace(init_from=str(last), devices=2),
        {"seed": [3, 4]},
        tmp_path / "sweep",
        dataset=small_set,
    )
    run = tmp_path / "sweep" / "runs" / "0000"
    assert kept(run) == kept(started)
    assert verify.run(run, display=Watcher(), dataset=small_set).identical


@pytest.mark.large
def test_changed_models_to_start_from_are_refused(last, small_set, tmp_path):
    source = shutil.copytree(last, tmp_path / "source")
    run = tmp_path / "run"
    job.run(START.replace(init_from=str(source)), run, display=Watcher(), dataset=small_set)
    assert len(reading.read_manifest(run)["initial_digest"]) == 64
    _change(source, 1)
    found = verify.run(run, display=Watcher(), dataset=small_set)
    assert not found.reproduced and "the nets to start with differ" in found.reason
    (run / "summary.json").unlink()
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(UsageError, match=r"init_from must hold the models that .*SHA-256"):
        job.resume(run, display=Watcher(), dataset=small_set)
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_clients": 4}, r"of a run with num_clients 4, got 5"),
        ({"feature_dim": 9}, r"of a run with feature_dim 9, got 8"),
        ({"image_size": 9}, r"of a run with image_shape \[9, 9, 1\], got \[8, 8, 1\]"),
        ({"classes": "0-3"}, r"of a run with num_classes 4, got 5"),
        ({"family": "mlp,mlp+4"}, r"hold a model mlp\+4 for client 1, got mlp"),
        ({"init_from": "nowhere"}, r"init_from must be .* kept models .*'nowhere'"),
    ],
)
def test_other_models_are_refused_by_name(change, message, last, small_set):
    with pytest.raises(UsageError, match=message):
        driver.prepare([START.replace(**{"init_from": str(last)} | change)], small_set)
