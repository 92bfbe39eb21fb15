"""The examples of the README and of the pages run as they stand, but for their sizes."""

import re

import pytest

from documents import PAGES, blocks
from protonorm_jax import methods
from protonorm_jax.models import registry

pytestmark = pytest.mark.usefixtures("hastily", "compiled_once", "undrawn")

SMALLER = {
    r"rounds=\d+": "rounds=1, num_clients=4, feature_dim=16",
    r"num_clients=20, ": "",
    r'"tiny"': '"mlp"',
    r"\[1, 20, 80\]": "[1]",
    r"Config\(rounds": 'Config(family="mlp", rounds',
    r"seeds=\d+": "seeds=1",
    r"tune=20": "tune=2",
    r"\(10, 512\)": "(10, 16)",
}
FAST = ("README.md", "docs/index.md")
EXAMPLES = [
    pytest.param(page, id=page, marks=() if page in FAST else pytest.mark.large)
    for page in PAGES
    if blocks(page, "python")
]


@pytest.fixture(autouse=True)
def as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models, known = dict(registry.ARCHITECTURES), dict(methods.METHODS)
    yield
    for name in [name for name in methods.METHODS if name not in known]:
        del methods.METHODS[name]
    registry.ARCHITECTURES.clear()
    registry.ARCHITECTURES.update(models)


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_run_one_after_the_other(page):
    namespace = {"__name__": "examples"}
    for number, block in enumerate(blocks(page, "python")):
        code = block.code
        for pattern, smaller in SMALLER.items() if "loop.federate" not in code else ():
            code = re.sub(pattern, smaller, code)
        exec(compile(code, f"{page}, block {number}", "exec"), namespace)


def test_there_are_examples_of_a_method_and_of_a_model():
    """That of the method is run, swept and resumed by `methods/test_user_file.py`."""
    for page in ("README.md", "docs/bring-your-own.md"):
        code = [block.code for block in blocks(page, "python")]
        assert any("METHODS[" in one for one in code)
        assert any("ARCHITECTURES[" in one for one in code)
