"""What programs for TPUs have in them and have not; none is run on a chip.

Most is asked of them as jax hands them to the compiler, which adds no such thing; what the compiler
has the last word on, of one that it has compiled.
"""

import hashlib
import importlib.util
import os
import re

import jax
import numpy as np
import pytest

import protonorm_jax
import small_nets
from compilation import as_before, thorough
from protonorm_jax.config import PRECISIONS, Config
from protonorm_jax.engine import exchange
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning import targets
from protonorm_jax.running import programs

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
ONE, EIGHT = "v5e:1x1", "v5e:2x4"


# Of neither does the table of `tpu_forms` say that clients go together: they take turns.
CONFIG = Config(
    family="small_separable,small_plain",
    num_clients=8,
    partition="iid",
    rounds=2,
    batch_size=8,
    feature_dim=16,
)


@pytest.fixture(scope="module", autouse=True)
def nets():
    with small_nets.registered():
        yield


class Lowered:
    """The program that advances a run of `CONFIG`, as the compiler gets it.

    Attributes:
      plan: for all chips of a target.
      states: their shapes, leaves `[chips, ...]`.
      program: not compiled.
      text: of it, StableHLO.
      gathered: of each call of `exchange.gather`, how many arrays a client has in it.
    """

    def __init__(self, target, dataset):
        self.plan = planning.make([CONFIG], dataset, target=targets.absent(target))
        self.gathered = []
        gather = exchange.gather

        def counted(outputs, client_devices):
            self.gathered.append(len(jax.tree.leaves(outputs[0])))
            return gather(outputs, client_devices)

        told = programs.told_shapes(self.plan)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exchange, "gather", counted)
            init, self.program = programs.traced(self.plan, told)
        self.states = init.lowered.out_info
        self.text = self.program.lowered.as_text()


@pytest.fixture(scope="module")
def lowered(small_set):
    """By the name of the target."""
    with as_before():
        yield {target: Lowered(target, small_set) for target in (ONE, EIGHT)}


@pytest.fixture(scope="module")
def compiled(lowered):
    """For eight chips."""
    one = lowered[EIGHT]
    return programs.compiled(one.program)


CONVOLUTION = re.compile(
    r"stablehlo\.convolution\(.*batch_group_count = (\d+).*feature_group_count = (\d+)"
    r".* : \(tensor<([\dx]+)x\w+>, tensor<([\dx]+)x\w+>\)"
)
TALKS = re.compile(r"\b(infeed|outfeed|send|recv)\b|callback|host_compute|memory_kind|S\(5\)")
COLLECTIVE = re.compile(
    r"\b(all[-_]gather|all[-_]reduce|all[-_]to[-_]all|reduce[-_]scatter|collective[-_]\w+)"
    r"(?:-start)?\"?\("
)


@needs_libtpu
def test_groups_of_convolutions_are_the_channels_of_depthwise_ones(lowered):
    """The stock convolution of clients under vmap would have a group for each client."""
    for one in lowered.values():
        assert one.text.count("stablehlo.convolution") == len(CONVOLUTION.findall(one.text))
        grouped = []
        for by_batch, by_feature, *_ in CONVOLUTION.findall(one.text):
            groups = int(by_batch) * int(by_feature)
            if groups > 1:
                grouped.append(groups)
        # Forwards in training, collection and evaluation; backwards to the input and the kernel.
        assert len(grouped) >= 5 and set(grouped) == {small_nets.CHANNELS}
        assert len(grouped) < one.text.count("stablehlo.convolution")


@needs_libtpu
def test_no_number_has_double_precision(lowered):
    """Of which a TPU would make several numbers."""
    for one in lowered.values():
        assert "xf32>" in one.text and "f64" not in one.text


def test_what_talks_with_the_host_is_found():
    def talking(x):
        jax.debug.callback(print, x)
        return x

    assert TALKS.search(jax.jit(talking).lower(np.float32(1)).as_text())
    assert TALKS.search("%sent = (f32[8], u32[], token[]) send(%given, %token), channel_id=3")


@needs_libtpu
def test_rounds_never_leave_the_device(lowered, compiled):
    for text in (*(one.text for one in lowered.values()), compiled.as_text()):
        assert not TALKS.search(text)


@needs_libtpu
def test_an_array_is_gathered_at_most_once(lowered, compiled):
    """That of all architectures in one, and by nothing but gathering."""
    one = lowered[EIGHT]
    assert not COLLECTIVE.findall(lowered[ONE].text)
    asked = COLLECTIVE.findall(one.text)
    assert set(asked) == {"all_gather"} and 0 < len(asked) <= sum(one.gathered)
    made = COLLECTIVE.findall(compiled.as_text())
    assert 0 < len(made) <= sum(one.gathered) and "all-to-all" not in made


@needs_libtpu
def test_states_are_written_over_those_that_came_in(lowered, compiled):
    states = jax.tree.leaves(lowered[EIGHT].states)
    head = compiled.as_text().partition("entry_computation_layout")[0]
    for number in range(len(states)):
        assert f"{{{number}}}: ({number}, {{}}, " in head
    chips = len(lowered[EIGHT].plan.devices)
    needed = sum(leaf.size * leaf.dtype.itemsize for leaf in states) // chips
    assert compiled.memory_analysis().alias_size_in_bytes >= needed


FUNCTION = re.compile(r"^  func\.func \w+ @(\"[^\"]+\"|[\w.]+)\(.*?^  }$", re.DOTALL | re.MULTILINE)
CALLED = re.compile(r"@(\"[^\"]+\"|[\w.]+)")


def arithmetic(text):
    """The functions of a program that multiply matrices or convolve, by what is in them.

    In the place of names stands what is called so; the round itself, which is as wide as a device
    has slots for clients, is left out.
    """
    functions = {found[1]: found[0] for found in FUNCTION.finditer(text)}
    known = {}

    def normal(name):
        if name not in known:
            body = functions[name].partition("(")[2]
            known[name] = CALLED.sub(
                lambda found: (
                    hashlib.sha256(normal(found[1]).encode()).hexdigest()
                    if found[1] in functions
                    else found[0]
                ),
                body,
            )
        return known[name]

    return {
        normal(name)
        for name in functions
        if name not in ("main", "_round")
        and re.search(r"stablehlo\.(dot_general|convolution)\b", functions[name])
    }


@needs_libtpu
def test_clients_compute_the_same_on_any_number_of_chips(lowered):
    """Word for word: forwards, backwards, and what the server makes of the uploads.

    The compiler may still arrange them in another way, which is not asked here.
    """
    first, second = (arithmetic(one.text) for one in lowered.values())
    assert first == second
    assert sum("stablehlo.convolution" in one for one in first) >= 2  # Training, evaluation.
    assert sum(one.count("stablehlo.convolution") for one in first) == lowered[ONE].text.count(
        "stablehlo.convolution"
    )


LESS = ("effort", "optimization_level", "most_optimizations", "expensive_passes")
USUAL = {
    "jax_disable_most_optimizations": False,
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_optimization_level": "UNKNOWN",
}


def lowering(names):
    """Those that have the compiler do less."""
    return [name for name in names if any(word in name for word in LESS)]


@pytest.fixture(scope="module")
def native(small_set):
    """Trains in the form for TPUs, on so many of this machine's devices, as users compile."""
    config = CONFIG.replace(method="fedproto", family="small_separable", num_clients=5)
    seen = []

    def run(devices):
        with thorough(), pytest.MonkeyPatch.context() as patch:
            compile = jax.stages.Lowered.compile

            def watched(program, options=None):
                seen.append((options or {}, {name: jax.config.values[name] for name in USUAL}))
                return compile(program, options)

            patch.setattr(jax.stages.Lowered, "compile", watched)
            patch.setattr(planning, "_form", lambda *_: "native")
            made = planning.program_of
            patch.setattr(
                planning,
                "program_of",
                lambda *given: made(*given)._replace(tiled=True),
            )
            return protonorm_jax.run(config.replace(devices=devices), dataset=small_set)

    return run(1), run, seen


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.large), 4])
def test_the_form_for_tpus_has_equal_bits_on_any_number_of_devices(native, devices):
    one, run, seen = native
    other = run(devices)
    assert one.rows == other.rows
    jax.tree.map(np.testing.assert_array_equal, one.arrays, other.arrays)
    assert len(seen) >= 4
    for options, settings in seen:
        assert not lowering(options) and settings == USUAL


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_no_program_is_compiled_with_less_effort(platform):
    """A program for a TPU would run 2.5 to 4 times slower by its compiler's own estimate."""
    assert lowering(["xla_backend_optimization_level", "exec_time_optimization_effort"])
    for precision in PRECISIONS:
        assert not lowering(programs.compiler_options(precision, platform))


def test_the_product_sets_nothing_that_lowers_the_effort():
    """Neither in jax's settings nor in variables; `conditions` only writes down what users set."""
    root = os.path.dirname(protonorm_jax.__file__)
    for folder, _, names in os.walk(root):
        for name in names:
            if not name.endswith(".py"):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                lines = file.read().splitlines()
            found = [line for line in lines if lowering([line]) or "LIBTPU_INIT_ARGS" in line]
            if name == "conditions.py":
                found = [line for line in found if not re.fullmatch(r'    "jax_\w+",', line)]
            if name == "alignment.py":  # Of the search, in words.
                found = [line for line in found if "The effort does not depend" not in line]
            assert not found, name
