"""The examples of the README run as they stand, but for their sizes."""

import pathlib
import re

import pytest

from protonorm_jax import methods
from protonorm_jax.models import registry

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

TEXT = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SMALLER = {
    r"rounds=\d+": "rounds=1, num_clients=4, feature_dim=16",
    r"num_clients=20, ": "",
    r'"tiny"': '"mlp"',
    r"\[1, 20, 80\]": "[1]",
    r"Config\(rounds": 'Config(family="mlp", rounds',
    r"seeds=\d+": "seeds=1",
    r"\(10, 512\)": "(10, 16)",
}


@pytest.fixture(autouse=True)
def as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = dict(registry.ARCHITECTURES)
    yield
    methods.METHODS.pop("headless", None)
    registry.ARCHITECTURES.clear()
    registry.ARCHITECTURES.update(models)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_runs(number):
    code = BLOCKS[number]
    for pattern, smaller in SMALLER.items():
        code = re.sub(pattern, smaller, code)
    exec(compile(code, f"README block {number}", "exec"), {"__name__": f"readme_{number}"})


def test_there_are_examples_of_a_method_and_of_a_model():
    """That of the method is run, swept and resumed by `methods/test_user_file.py`."""
    assert any("METHODS[" in block for block in BLOCKS)
    assert any("ARCHITECTURES[" in block for block in BLOCKS)
