"""Programs compiled without being run."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from protonorm_jax.config import Config
from protonorm_jax.planning import hlo
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.need import Need
from protonorm_jax.planning.targets import Chip, Target
from protonorm_jax.running import ahead, driver, programs

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


def test_names_of_arguments_are_those_of_what_is_given(plan, found):
    told = programs.told_shapes(plan)
    init, rounds = programs.traced(plan, told)
    assert init.arguments[:2] == ("runs.seed", "runs.learning_rate")
    assert len(init.arguments) == len(jax.tree.leaves(told))
    assert rounds.arguments[-3:] == ("samples.labels", "num_rounds", "evaluated")
    given = {one.number: one.layout for one in hlo.arguments(found[1].text)}
    shapes = dict(zip(rounds.arguments, range(len(rounds.arguments)), strict=True))
    kernel = "states.clients[0].params['model']['head']['kernel']"
    assert given[shapes[kernel]].startswith("f32[1,1,4,40]")  # Eight features, five classes.
    assert given[shapes["samples.labels"]].startswith(f"s32[{len(plan.dataset.labels)}]")
    features = programs.features(plan, told, rounds.lowered.out_info[0])
    assert features.arguments[-1] == "samples.labels"


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
    needed = Need(100_000, 20, 50, 1000)
    own = jax.ShapeDtypeStruct((1, 1, 25), jnp.float32)  # 100 bytes of each run.

    def fit(more, **spread):
        """With so many bytes more than the program needs."""
        one = plan._replace(spread=plan.spread._replace(**spread))
        return ahead.runs_that_fit(one, [own], needed, needed.total() + more)

    # Runs take turns on CPU; where a device has several, one is copied out of the rest.
    assert fit(0) == fit(199) == 1 and fit(200) == 2 and fit(300) == 3
    assert fit(0, runs_each=3) == 3 and fit(100, runs_each=3) == 4 and fit(-1, runs_each=3) == 2
    assert fit(299, client_devices=3) == 0 and fit(300, client_devices=3) == 1
    assert fit(-100) == fit(-100_000) == 0
    # Of vmapped runs each has temporaries of its own, here a quarter of them.
    vmapped = {"runs_each": 4, "vmap_runs": 4}
    assert fit(111, **vmapped) == 4 and fit(112, **vmapped) == 5


def test_as_many_runs_fit_as_are_planned(plan, small_set):
    """By the compiled program of one run, and by the estimate of so many."""
    device = plan.devices[0]
    config = CONFIG.replace(feature_dim=64)
    roomy = Target("v5e:1x1", [device], Chip(2**60, 1e12, 1e12))
    one = planning.make([config], small_set, target=roomy)
    memory = 12 * one.memory.total()
    *_, rounds = ahead.compile_ahead(one, roomy._replace(chip=Chip(memory, 1e12, 1e12)))
    assert rounds.runs_that_fit > 8

    def expected(count):
        configs = [config.replace(seed=seed) for seed in range(count)]
        plan = planning.make(configs, small_set, target=roomy, runs_per_program=count)
        return plan.memory.total()

    assert (
        expected(rounds.runs_that_fit * 3 // 4) < memory < expected(rounds.runs_that_fit * 4 // 3)
    )
