"""The command that has kept models classify a data set, and what it draws."""

import io

import numpy as np
import pytest

from protonorm_jax import data, report
from protonorm_jax.command import cli
from protonorm_jax.config import Config
from protonorm_jax.data import digits
from protonorm_jax.running import job, reading
from protonorm_jax.types import Part
from recorded import SMALL

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")


class Silent:
    """A display that shows nothing."""

    def plan(self, planned):
        pass

    def start(self, simulation, round_index=0):
        pass

    def add(self, step):
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a part of digits, whose models are for any of them."""
    directory = tmp_path_factory.mktemp("predict") / "run"
    plain = SMALL.to_dict() | {"family": "mlp", "num_clients": 3, "rounds": 1, "dropout": 0.0}
    plain |= {"data": "digits", "num_samples": 300, "keep_models": "last", "participation": 1.0}
    job.run(Config(**plain), directory, display=Silent())
    return directory


def called(capsys, *arguments):
    code = cli.main(["predict", *map(str, arguments)])
    found = capsys.readouterr()
    return code, found.out, found.err


def lines_of(output):
    """The cells of the lines of the table, by client."""
    rows = [line.split() for line in output.splitlines()]
    return {row[0]: row[1:] for row in rows if row and (row[0].isdigit() or row[0] == "all")}


def test_on_the_data_of_the_run_it_is_what_the_run_has_recorded(run, capsys, tmp_path):
    picture = tmp_path / "new" / "confusion.png"
    code, output, _ = called(capsys, run, "--out", picture)
    given = (run, "--data", "digits", "--num-samples", 300)
    assert called(capsys, *given)[1] == output.replace(f"Drawn in {picture}\n", "")
    assert code == 0 and "its own test samples" in output and "by prototype" in output
    recorded = reading.read_arrays(run)["clients.npz"]
    count, right = recorded["count"][:, 0], recorded["prototype_correct"][-1, :, 0]
    lines, summary = lines_of(output), reading.read_summary(run)
    for client in range(3):
        share = f"{right[client] / count[client]:.3f}"
        assert lines[str(client)][:3] == ["mlp", str(count[client]), share]
    assert lines["all"][1] == f"{summary['prototype_accuracy']:.3f}"
    assert lines["all"][2] == f"{summary['majority_accuracy']:.3f}"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_on_other_data_all_samples_count_or_the_test_part(run, capsys, tmp_path):
    whole = digits.load()
    file = data.save_npz(whole, tmp_path / "other.npz")
    code, output, _ = called(capsys, run, "--data", file, "--client", 1, "--by", "head")
    lines = lines_of(output)
    assert code == 0 and set(lines) == {"1"} and lines["1"][1] == "1,797"
    held = reading.read_manifest(run)["clients"][1]["train_by_class"]
    most = max(sorted(map(int, held)), key=lambda label: held[str(label)])
    assert lines["1"][3] == f"{np.mean(whole.labels == most):.3f}"
    parts = np.full(len(whole.labels), Part.TRAIN, np.uint8)
    parts[:40] = Part.TEST
    file = data.save_npz(whole._replace(parts=parts), tmp_path / "parts.npz")
    code, output, _ = called(capsys, run, "--data", file)
    assert code == 0 and "the 40 samples of the test part" in output
    assert lines_of(output)["all"][0] == "120"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--data", "digits", "--image-size", 9), r"shape (8, 8, 1), as the models, got (9, 9, 1)"),
        (("--data", "digits", "--classes", "0-3"), "a number of classes of 10, as the models, got"),
        (("--data", "digits", "--client", 3), "--client must be in [0, 3), got 3"),
        (("--data", "digits", "--by", "mentee"), "--by must be one of head, prototype for method"),
        (("--data", "digits", "--out", "x.txt"), "--out must end in one of .png"),
    ],
)
def test_what_cannot_be_predicted_is_refused(given, message, run, capsys):
    code, output, error = called(capsys, run, *given)
    assert code == 2 and not output and message in error


def test_a_directory_without_models_is_refused(capsys, tmp_path):
    code, _, error = called(capsys, tmp_path, "--data", "digits")
    assert code == 2 and "DIR must be the directory of a finished run with kept models" in error


def made(client, num_classes=4, count=30):
    generator = np.random.default_rng(client)
    scores = generator.normal(size=(count, num_classes)).astype(np.float32)
    scores[0] = -np.inf
    labels = generator.integers(0, num_classes, count)
    return report.Predicted(client, "mlp", labels, scores, np.arange(num_classes))


def test_a_sample_without_an_answer_is_wrong():
    one = made(0)
    assert one.confusion().sum() == 29
    labels = np.array([0, *one.labels[1:]])  # As the arg-max of equal scores is.
    rest = one._replace(labels=labels[1:], scores=one.scores[1:])
    assert one._replace(labels=labels).right == rest.right > 0
    assert one.majority == (one.labels == 3).sum()


@pytest.mark.parametrize(("num_clients", "num_classes"), [(1, 2), (5, 4), (13, 20)])
def test_pictures_of_any_number_of_clients(num_clients, num_classes):
    file = io.BytesIO()
    report.draw_confusion([made(i, num_classes) for i in range(num_clients)], "head", file)
    assert file.getvalue().startswith(b"\x89PNG")
