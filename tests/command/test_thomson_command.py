"""The command `thomson`: what it asks for, prints, writes and refuses."""

import io

import jax
import numpy as np
import pytest

from protonorm_jax import thomson
from protonorm_jax.command import cli
from protonorm_jax.command import thomson as command
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def no_program_cache(monkeypatch, tmp_path):
    """Commands run in a folder of their own and leave the user's cache alone."""
    monkeypatch.setattr(devices, "cache_programs", lambda: None)
    monkeypatch.chdir(tmp_path)


def run(*flags):
    return cli.main(["thomson", "--restarts", "16", *flags])


@pytest.fixture
def searches(monkeypatch):
    """Every search finds a tetrahedron at once; the settings it was asked with."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    found = thomson.MinimizeResult(corners, 6 / np.sqrt(8 / 3), 1e-9, True, np.full(8, 3.67))
    asked = []

    def minimize(key, **settings):
        asked.append(settings | {"key": key})
        return found

    monkeypatch.setattr(thomson, "minimize", minimize)
    return asked


def test_four_points_make_a_tetrahedron(tmp_path, capsys, searches):
    assert run("--num-points", "4", "--seed", "5") == 0
    (asked,) = searches
    assert jax.random.key_data(asked.pop("key")).tolist() == [0, 5]
    assert callable(asked.pop("tell"))
    assert asked == {"num_points": 4, "dim": 3, "exponent": 1.0, "restarts": 16}

    printed = capsys.readouterr().out
    assert "3.67423461" in printed
    assert "best known      3.674234614, relative excess" in printed
    assert "smallest angle  109.4712 degrees" in printed
    assert "compilation included" in printed
    assert "not converged" not in printed
    directory = tmp_path / "runs" / "thomson-4-3"
    assert {path.name for path in directory.iterdir()} == {
        command.POINTS,
        command.PICTURE,
    }
    assert (directory / command.PICTURE).read_bytes().startswith(PNG)
    with np.load(directory / command.POINTS) as found:
        np.testing.assert_allclose(found["energy"], 3.674234614, atol=1e-6, rtol=0)
        np.testing.assert_allclose(np.linalg.norm(found["points"], axis=1), 1, atol=1e-12)
        assert found["points"].shape == (4, 3)
        assert found["points"].dtype == np.float64
        assert (found["num_points"], found["dim"]) == (4, 3)
        assert (found["exponent"], found["seed"]) == (1, 5)


def test_results_are_only_overwritten_on_demand(tmp_path, capsys, searches):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / command.POINTS).write_text("mine")
    flags = ("--num-points", "4", "--out", "out")
    assert run(*flags) == 2
    assert "--out must be a new or empty directory unless --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / command.POINTS).read_text() == "mine"
    assert run(*flags, "--overwrite") == 0
    assert np.load(tmp_path / "out" / command.POINTS)["points"].shape == (4, 3)


def test_other_dimensions_and_exponents_are_searched_and_have_no_table(tmp_path, capsys):
    """Five points on the circle make a pentagon, whose energy has a formula."""
    assert run("--num-points", "5", "--dim", "2", "--exponent", "0") == 0
    printed = capsys.readouterr().out
    assert "best known" not in printed
    assert "smallest angle  72.0000 degrees" in printed
    assert f"energy          {-2.5 * np.log(5):.9f}" in printed
    with np.load(tmp_path / "runs" / "thomson-5-2" / command.POINTS) as found:
        assert found["points"].shape == (5, 2)
        assert (found["dim"], found["exponent"]) == (2, 0)


def test_only_the_thomson_problem_has_a_table(capsys, searches):
    assert run("--num-points", "4", "--exponent", "2") == 0
    assert "best known" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num-points", "1"), "--num-points must be >= 2, got 1"),
        (("--num-points", "4", "--dim", "1"), "--dim must be >= 2, got 1"),
        (("--num-points", "4", "--restarts", "0"), "--restarts must be >= 1, got 0"),
        (("--num-points", "4", "--exponent", "-1"), "--exponent must be finite and >= 0, got -1"),
        (("--num-points", "4", "--exponent", "nan"), "--exponent must be finite and >= 0, got nan"),
        (("--num-points", "4", "--seed", "-1"), "--seed must be in [0, 4294967295], got -1"),
        (("--num-points", "4", "--out", "file/below"), "--out must be writable, got"),
        (("--num-points", "4", "--out", "file"), "--out must be a new or empty directory"),
    ],
)
def test_mistakes_get_one_line(flags, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(*flags) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"protonorm: {message}")
    assert complaint.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("flags", [(), ("--num-points", "four")])
def test_what_is_no_number_gets_one_line(flags, capsys):
    assert run(*flags) == 2
    complaint = capsys.readouterr().err
    assert "--num-points" in complaint
    assert complaint.count("\n") == 1


def test_energies_that_overflow_are_no_result(tmp_path, monkeypatch, capsys):
    found = thomson.MinimizeResult(np.eye(3)[:2], 1e300, np.inf, False, np.full(8, 1e300))
    monkeypatch.setattr(thomson, "minimize", lambda *_, **__: found)
    assert run("--num-points", "2", "--exponent", "300") == 2
    assert "--exponent must be low enough for 2 points" in capsys.readouterr().err
    assert not any((tmp_path / "runs" / "thomson-2-3").iterdir())


def test_debug_shows_the_traceback():
    with pytest.raises(UsageError):
        run("--num-points", "0", "--debug")


def test_hull_edges_leave_out_the_diagonals_of_a_cube():
    cube = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T / np.sqrt(3)
    edges = command.hull_edges(cube)
    assert len(edges) == 12
    lengths = np.linalg.norm(cube[edges[:, 0]] - cube[edges[:, 1]], axis=1)
    np.testing.assert_allclose(lengths, 2 / np.sqrt(3))


@pytest.mark.parametrize(("num_points", "num_edges"), [(2, 1), (3, 3), (6, 12)])
def test_hull_edges_of_few_points(num_points, num_edges):
    octahedron = np.concatenate([np.eye(3), -np.eye(3)])
    triangle = np.stack([np.cos([0, 2, 4]), np.sin([0, 2, 4]), np.zeros(3)], axis=1)
    points = {2: octahedron[::3], 3: triangle, 6: octahedron}[num_points]
    assert len(command.hull_edges(points)) == num_edges


@pytest.mark.parametrize("shape", [(2, 2), (5, 2), (2, 3), (3, 3), (40, 3), (9, 5)])
def test_draw_any_number_of_points(shape):
    points = np.random.default_rng(0).normal(size=shape)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    file = io.BytesIO()
    command.draw(points, "energy", file)
    assert file.getvalue().startswith(PNG)
