"""What who runs simulations from Python sees of them."""

import subprocess
import sys

import pytest

import protonorm_jax
from protonorm_jax.running import progress
from recorded import SMALL

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once")

FEW = SMALL.replace(method="local", family="mlp", num_clients=4, feature_dim=8, rounds=2)


@pytest.fixture(scope="module")
def seen(small_set):
    """What a run has returned, and its evaluations."""
    evaluations = []
    history = protonorm_jax.run(FEW, dataset=small_set, on_evaluation=evaluations.append)
    return history, evaluations


def test_results_are_short_in_a_terminal(seen):
    history, evaluations = seen
    accuracy = history.summary["head_accuracy"]
    assert repr(history).startswith("<History of local on digits, 4 clients (mlp), 2 rounds: ")
    assert f"head accuracy {accuracy:.3f}" in repr(history) and len(repr(history)) < 200
    assert repr(evaluations[0]).startswith("<Evaluation of round 1: head accuracy")
    assert len(repr(evaluations[0])) < 200


def test_a_history_shows_itself_in_a_notebook(seen):
    history, _ = seen
    html = history._repr_html_()
    assert "local on digits, 4 clients (mlp)" in html and "data:image/png" in html
    assert f"<td>{history.summary['majority_accuracy']:.3f}</td>" in html


def test_a_bar_is_shown_only_when_it_is_wanted(small_set, capsys):
    protonorm_jax.run(FEW, dataset=small_set)
    assert capsys.readouterr() == ("", "")
    protonorm_jax.run(FEW, dataset=small_set, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "2/2 head accuracy" in shown.err


def test_the_bar_of_a_notebook_is_one_element(monkeypatch):
    shown = []

    class Handle:
        def update(self, element):
            shown[-1] = element.data

    def display(element, display_id):
        shown.append(element.data)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    with progress.bar(5) as bar:
        assert shown == ['<progress value="0" max="5"></progress> 0/5 compiling']
        bar.show(3, "<loss>")
    assert shown == ['<progress value="3" max="5"></progress> 3/5 &lt;loss&gt;']


def test_pictures_and_bars_are_imported_when_they_are_used():
    code = (
        "import sys, protonorm_jax; protonorm_jax.Config()._repr_html_(); protonorm_jax.run; "
        "print([name for name in ('matplotlib', 'rich.progress', 'IPython', 'wandb', 'mlflow', "
        "'tensorboardX') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
