"""Every module of the core has a row in the table of rooms, and its tests exist."""

import pathlib

from rooms import ROOMS

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGE = ROOT / "src" / "protonorm_jax"
CORE = ("engine", "methods", "thomson")


def test_no_module_of_the_core_is_left_out():
    paths = [path for folder in CORE for path in (PACKAGE / folder).rglob("*.py")]
    modules = {path.relative_to(PACKAGE).as_posix() for path in paths if path.stem != "__init__"}
    missing = modules - set(ROOMS)
    assert not missing, "These have no row in tests/mutants/rooms.py."
    assert all((PACKAGE / module).is_file() for module in ROOMS)


def test_all_tests_are_there():
    for tests in ROOMS.values():
        for test in tests[: tests.index("-k")] if "-k" in tests else tests:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file()
