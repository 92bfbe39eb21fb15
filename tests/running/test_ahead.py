"""Programs compiled without being run."""

import json

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from protonorm_jax.config import Config
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import ahead, driver

pytestmark = pytest.mark.usefixtures("hastily")

CONFIG = Config(
    family="mlp", method="local", num_clients=4, feature_dim=8, batch_size=8, rounds=2, devices=1
)


@pytest.fixture(scope="module")
def plan(small_set):
    return planning.make([CONFIG.replace(keep_features=6)], small_set)


@pytest.fixture(scope="module")
def found(plan):
    return list(ahead.compile_ahead(plan))


def test_every_program_is_compiled(found):
    assert [one.name for one in found] == ["init", "rounds", "features"]
    for one in found:
        assert one.text.startswith("HloModule") and one.seconds > 0
        assert one.host_bytes > one.memory.total() > 0
        assert one.free_share() == 1 - one.memory.total() / one.available
        assert (one.round is None) == (one.runs_that_fit is None) == (one.name != "rounds")


def test_it_can_be_written_as_json(found):
    described = json.loads(json.dumps([one.description() for one in found]))
    _, rounds, _ = described
    memory = rounds["memory"]
    assert memory.pop("total") == sum(memory.values())
    assert rounds["round"]["by_part"]["training"]["flops"] > 0
    assert "text" not in rounds and 0 < rounds["free_share"] < 1


@pytest.fixture
def new_cache(tmp_path):
    """A cache of programs with nothing in it."""
    directory, name = jax.config.jax_compilation_cache_dir, "jax_compilation_cache_dir"
    least = "jax_persistent_cache_min_compile_time_secs"
    seconds = getattr(jax.config, least)
    jax.config.update(name, str(tmp_path))
    jax.config.update(least, 0.0)
    compilation_cache.reset_cache()
    yield
    jax.config.update(name, directory)
    jax.config.update(least, seconds)
    compilation_cache.reset_cache()


def test_a_run_finds_its_programs_in_the_cache(plan, new_cache, monkeypatch):
    found = []
    compile = jax.stages.Lowered.compile

    def listen(event, **_):
        found.append(event.endswith("/cache_hits"))

    def watched(lowered, options=None):
        jax.monitoring.register_event_listener(listen)
        try:
            return compile(lowered, options)
        finally:
            jax.monitoring.unregister_event_listener(listen)

    monkeypatch.setattr(jax.stages.Lowered, "compile", watched)
    assert not any(one.cached for one in ahead.compile_ahead(plan))
    assert found and not any(found)
    found.clear()
    jax.clear_caches()
    for step in driver.train(driver.compile_plan(plan)):
        assert not any(isinstance(event, Exception) for event in step.news.values())
    assert sum(found) == 3  # With that of features.
    assert all(one.cached for one in ahead.compile_ahead(plan))


def test_so_many_runs_fit_as_there_is_room_for(plan):
    samples = plan.dataset.images.nbytes + plan.dataset.labels.nbytes
    memory = ahead.Memory(samples + 100, 20, 50, 1000)
    room = samples + 1000 + 50  # Which are there once, as runs take turns on CPU.

    def fit(available, **spread):
        return ahead.runs_that_fit(
            plan._replace(spread=plan.spread._replace(**spread)), memory, available
        )

    assert fit(room + 359) == 2 and fit(room + 360) == 3
    assert fit(room + 360, runs_each=3) == 9  # Each of these needs a third.
    assert fit(room + 360, client_devices=3) == 1  # Here it has a third of a run's clients.
    assert fit(room) == fit(10) == 0
