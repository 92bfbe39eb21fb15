"""Settings: checked once, complete, and of the method they belong to."""

import json

import pytest

from protonorm_jax import settings
from protonorm_jax.config import Config, from_dict, load, rates
from protonorm_jax.errors import UsageError


def test_a_config_goes_to_a_dict_and_back():
    config = Config(alpha=1, method_settings={"scale": 20, "align": "reference"}, shuffle=False)
    assert config.alpha == 1.0 and isinstance(config.alpha, float)
    values = json.loads(json.dumps(config.to_dict()))
    assert from_dict(values) == config
    assert from_dict(values).digest() == config.digest() != Config().digest()
    assert hash(config) == hash(from_dict(values))


def test_settings_of_the_method_are_complete_and_count_in_the_digest():
    config = Config(method="fedtgp", method_settings={"margin": 1})
    wanted = {
        "proximity": 10.0,
        "distance": "mse",
        "margin": 1.0,
        "server_epochs": 100,
        "collect": "after",
    }
    assert config.method_settings == wanted == config.to_dict()["method_settings"]
    assert config.digest() != Config(method="fedtgp").digest()
    assert config == Config(method="fedtgp", method_settings=wanted)


def test_a_field_that_came_later_leaves_digests_as_they_were():
    assert Config().digest() == "7245919c93d2aaac"  # Recorded before there was `shared_model`.
    assert Config(shared_model="mlp").digest() != Config().digest()
    values = Config().to_dict()
    del values["shared_model"]
    assert from_dict(values) == Config()


def test_whole_epochs_are_recorded_as_before():
    for epochs in (1, 1.0):
        config = Config(local_epochs=epochs)
        assert config.digest() == "7245919c93d2aaac"
        assert json.dumps(config.to_dict()["local_epochs"]) == "1"
    half = Config(local_epochs=0.5)
    assert from_dict(json.loads(json.dumps(half.to_dict()))) == half != Config()


def test_augmentations_have_one_name():
    for text in ("crop,flip", "flip,crop", "crop+flip"):
        assert Config(augment=text).augment == "crop,flip"
    assert Config(augment="crop").digest() != Config(augment="flip").digest() != Config().digest()


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("cosine", [1.0, 0.9045084971874737, 0.6545084971874737, 0.3454915028125263, 0.0954915]),
        ("exponential:0.5", [1, 0.5, 0.25, 0.125, 0.0625]),
        ("step:2:0.1", [1, 1, 0.1, 0.1, 0.01]),
    ],
)
def test_schedules_go_over_the_rounds(schedule, wanted):
    """The cosine's are torch's `CosineAnnealingLR` with T_max of 5."""
    assert rates(schedule, 5) == pytest.approx(wanted)


TRAINING = [
    ({"local_epochs": 0}, "Config.local_epochs must be > 0, got 0.0"),
    ({"local_epochs": float("inf")}, "Config.local_epochs must be finite, got inf"),
    ({"local_steps": -1}, "Config.local_steps must be >= 0, got -1"),
    (
        {"local_steps": 5, "local_epochs": 2},
        "Config.local_steps must be 0 or left out with local_epochs 2, got 5",
    ),
    ({"momentum": 1}, "Config.momentum must be < 1, got 1.0"),
    ({"momentum": -0.1}, "Config.momentum must be >= 0, got -0.1"),
    (
        {"momentum": 0.9, "optimizer": "adam"},
        "Config.momentum must be 0 or left out with optimizer adam, got 0.9",
    ),
    ({"nesterov": True}, "Config.nesterov must be False with momentum 0, got True"),
    ({"weight_decay": -1e-4}, "Config.weight_decay must be >= 0, got -0.0001"),
    ({"clip_norm": -1}, "Config.clip_norm must be >= 0, got -1.0"),
    ({"optimizer": "lion"}, "Config.optimizer must be one of sgd, adam, adamw, got 'lion'"),
    ({"failures": 1.5}, "Config.failures must be <= 1, got 1.5"),
    ({"stragglers": -0.1}, "Config.stragglers must be >= 0, got -0.1"),
    ({"straggler_work": 2}, "Config.straggler_work must be <= 1, got 2.0"),
    (
        {"augment": "crop,blur"},
        "Config.augment must be none, crop, flip or crop,flip, got 'crop,blur'",
    ),
    ({"augment": True}, "Config.augment must be text, got True"),
    *(
        (
            {"schedule": text},
            "Config.schedule must be constant, cosine, exponential:FACTOR or step:ROUNDS:FACTOR "
            f"with factors above 0 and up to 1, got {text!r}",
        )
        for text in (
            *("linear", "", "exponential", "exponential:0", "exponential:1.1", "exponential:nan"),
            *("step:30", "step:0:0.1", "step:a:0.1", "cosine:3", "step:1.5:0.1"),
        )
    ),
]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *TRAINING,
        ({"alpha": 0}, "Config.alpha must be > 0, got 0.0"),
        ({"alpha": float("inf")}, "Config.alpha must be finite, got inf"),
        ({"num_clients": 0}, "Config.num_clients must be >= 1, got 0"),
        ({"num_clients": True}, "Config.num_clients must be an integer, got True"),
        ({"rounds": 2.0}, "Config.rounds must be an integer, got 2.0"),
        ({"seed": 2**32}, "Config.seed must be <= 4294967295, got 4294967296"),
        ({"data": None}, "Config.data must be text, got None"),
        ({"method_settings": 3}, "Config.method_settings must be a mapping, got 3"),
        ({"method_settings": {"proximity": -1}}, "protonorm.proximity must be >= 0, got -1.0"),
        ({"method_settings": {"scale": 0}}, "protonorm.scale must be > 0, got 0.0"),
        (
            {"method_settings": {"collect": "never"}},
            "protonorm.collect must be one of after, before, during, got 'never'",
        ),
        (
            {"method": "fedtgp", "method_settings": {"margin": -1}},
            "fedtgp.margin must be > 0, got -1.0",
        ),
        (
            {"method": "fedtgp", "method_settings": {"margn": 1}},
            "fedtgp has no setting 'margn' (did you mean 'margin'?)",
        ),
        ({"method": "local", "method_settings": {"scale": 1}}, "local has no setting 'scale'"),
    ],
)
def test_errors_name_field_rule_and_value(values, message):
    with pytest.raises(UsageError) as caught:
        Config(**values)
    assert str(caught.value) == message


def test_an_unknown_method_is_answered_with_those_there_are():
    with pytest.raises(
        UsageError, match=r"Config\.method must be one of protonorm, .*'fedproto'\?"
    ):
        Config(method="fedprot")


def test_replacing_the_method_drops_the_settings_of_the_one_before():
    config = Config(method_settings={"scale": 3.0})
    assert config.replace(rounds=7).method_settings["scale"] == 3.0
    assert config.replace(scale=4, align="none").method_settings["align"] == "none"
    assert config.replace(method="protonorm").method_settings["scale"] == 3.0
    assert config.replace(method="fedtgp", margin=0.5).method_settings["margin"] == 0.5
    assert config.replace(method="local").method_settings == {}
    with pytest.raises(UsageError, match="local has no setting 'scale'"):
        config.replace(method="local", scale=4)


def test_a_config_from_before_settings_belonged_to_methods_is_read():
    """None was the method's default; `collect` had a value that Local had no use for."""
    flat = {"proximity": None, "scale": 5.0, "align": None, "weighting": None, "collect": "before"}
    config = from_dict({"method": "protonorm", "rounds": 3, **flat})
    assert (
        config.method_settings
        == Config(method_settings={"scale": 5.0, "collect": "before"}).method_settings
    )
    assert from_dict({"method": "local", **flat, "scale": None}).method_settings == {}
    with pytest.raises(UsageError, match="fedproto has no setting 'scale'"):
        from_dict({"method": "fedproto", **flat})


def test_a_method_from_a_file_is_asked_for(tmp_path):
    file = {"path": "mine.py", "digest": "0" * 64}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"method": "mine", "method_settings": {}, "methods_file": file}))
    with pytest.raises(UsageError, match=r"--methods must be given for method mine, .* mine\.py"):
        load(path)


def test_a_group_knows_what_is_traced():
    group = settings.groups()["fedtgp"]
    assert settings.traced(group) == ("proximity", "margin")
    assert settings.fixed(group) == ("distance", "server_epochs", "collect")


PUBLISHED = {"shuffle": False, "last_batch": "drop", "dropped_features": True}


def test_one_switch_for_what_the_published_code_does():
    config = Config(fidelity="reference", method_settings={"scale": 4.0})
    assert {name: getattr(config, name) for name in PUBLISHED} == PUBLISHED
    own = Config(method_settings={"scale": 4.0}).method_settings
    published = {"align": "reference", "collect": "before"}
    assert config.method_settings == {**own, **published}
    values = json.loads(json.dumps(config.to_dict()))
    assert values.items() >= PUBLISHED.items() and from_dict(values) == config
    spelt_out = {**PUBLISHED, "method_settings": {**published, "scale": 4.0}}
    assert config == Config(fidelity="reference", **spelt_out)
    assert Config(fidelity="reference", method="local").shuffle is False


def test_the_switch_leaves_mistakes_to_their_own_messages():
    for values, message in (
        ({"method": ["local"]}, r"Config.method must be text, got \['local'\]"),
        ({"method": "fedprot"}, "Config.method must be one of"),
        ({"method_settings": 3}, "Config.method_settings must be a mapping, got 3"),
        ({"method_settings": {"margn": 1}}, "protonorm has no setting 'margn'"),
    ):
        for fidelity in ("paper", "reference"):
            with pytest.raises(UsageError, match=message):
                Config(fidelity=fidelity, **values)


def test_the_switch_can_be_turned_in_a_sweep_and_with_the_method():
    config = Config(fidelity="reference", rounds=7)
    assert config.replace(fidelity="paper") == Config(rounds=7)
    assert Config(rounds=7).replace(fidelity="reference") == config
    other = config.replace(method="fedproto")
    assert other == Config(fidelity="reference", rounds=7, method="fedproto")
    assert other.method_settings["collect"] == "during"
    assert config.replace(fidelity="paper", shuffle=False).shuffle is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shuffle": True}, "Config.shuffle must be False or left out with fidelity reference"),
        ({"last_batch": "mask"}, "Config.last_batch must be drop or left out with fidelity ref"),
        ({"method_settings": {"align": "auto"}}, "protonorm.align must be reference or left out"),
        (
            {"method": "fedtgp", "method_settings": {"collect": "after"}},
            "fedtgp.collect must be before or left out with fidelity reference, got after",
        ),
    ],
)
def test_what_contradicts_the_switch_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        Config(fidelity="reference", **change)
    with pytest.raises(UsageError, match=message):
        from_dict({"fidelity": "reference", **change})
    flat = {name: value for name, value in change.items() if name != "method_settings"}
    flat |= change.get("method_settings", {})
    with pytest.raises(UsageError, match=message):
        Config(fidelity="reference").replace(**flat)
    assert Config(**change).fidelity == "paper"


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(rounds=3, family="mlp,cnn", method="fedtgp", method_settings={"margin": 5.0}),
        Config(fidelity="reference", seed=2),
        Config(method="local", augment="flip"),
    ],
)
def test_a_config_shows_as_the_call_that_makes_it(config):
    assert eval(repr(config), {"Config": Config}) == config
    assert len(repr(config)) < 400


def test_a_config_in_a_notebook_has_what_was_set_first():
    config = Config(data="<x>.npz", method="fedtgp", method_settings={"margin": 5.0})
    first, others = config._repr_html_().split("<details>")
    assert "<td>data</td><td>&lt;x&gt;.npz</td>" in first
    assert "<td>fedtgp.margin</td><td>5.0</td>" in first
    assert "<td>seed</td><td>0</td>" in others and "seed" not in first
    assert "color" not in first + others
    assert "all settings have their defaults" in Config()._repr_html_()
