"""Decompositions of matrices: batched ones block XLA's threads on CPU, where others wait for them.

With several devices and vmapped clients a run then never ends. `sequential_vmap` keeps them apart.
"""

import ast
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from protonorm_jax import methods

ROOT = pathlib.Path(methods.__file__).parent
ALLOWED = ROOT / "shared" / "low_rank.py"
DECOMPOSITIONS = {
    *("cholesky", "cond", "det", "eig", "eigh", "eigvals", "eigvalsh", "hessenberg"),
    *("householder_product", "inv", "lstsq", "lu", "matrix_rank", "pinv", "polar", "qdwh", "qr"),
    *("schur", "slogdet", "solve", "sqrtm", "svd", "svdvals", "triangular_solve"),
    "tridiagonal_solve",
}


@pytest.fixture(scope="module")
def spectral():
    """The made-up method of `spectral.py`, its clients in turns, and vmapped on two devices.

    XLA has no more threads than devices, as it has for users with as many cores.
    """
    script = pathlib.Path(__file__).parent / "spectral.py"
    flags = "--xla_force_host_platform_device_count=2"
    result = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ
        | {"NPROC": "2", "XLA_FLAGS": flags, "PYTHONPATH": str(script.parent.parent)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.large
def test_vmapped_clients_of_two_devices_come_to_an_end(spectral):
    alone, mapped = (np.array(one["spectrum"]) for one in spectral)
    assert np.all(np.diff(alone[1:]) >= -1e-5) and alone[-1] > 0.1
    np.testing.assert_allclose(mapped, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.large
def test_predictions_are_made_with_what_was_received(spectral):
    """The heads received are all for class 0, which no sample has; those that were trained not."""
    assert [one["accuracy"] for one in spectral] == [0.0, 0.0]


def decompositions(source):
    """The decompositions that a module calls, or imports by name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and "linalg" in ast.unparse(node.value):
            found |= {ast.unparse(node)} if node.attr in DECOMPOSITIONS else set()
        if isinstance(node, ast.ImportFrom) and "linalg" in (node.module or ""):
            found |= {alias.name for alias in node.names} & DECOMPOSITIONS
        if isinstance(node, ast.alias) and node.asname and node.name.endswith("linalg"):
            found.add(node.name)
    return found


def test_what_counts_as_a_decomposition():
    assert decompositions("x = jnp.linalg.eigh(a)") == {"jnp.linalg.eigh"}
    assert decompositions("from jax.lax.linalg import svd, transpose") == {"svd"}
    assert decompositions("jax.scipy.linalg.solve(a, b)") == {"jax.scipy.linalg.solve"}
    assert decompositions("import jax.numpy.linalg as la") == {"jax.numpy.linalg"}
    assert not decompositions("n = jnp.linalg.norm(a); a.inv; numbers.eig()")


def test_decompositions_stand_in_one_file():
    for path in ROOT.rglob("*.py"):
        if path != ALLOWED:
            assert not decompositions(path.read_text(encoding="utf-8")), path
