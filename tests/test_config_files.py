"""Config files and grids in TOML, YAML and JSON: read, refused and written."""

import contextlib
import io
import json
import pathlib
import re
import string

import hypothesis
import pytest
from hypothesis import strategies as st

from protonorm_jax import config, documents, methods, settings
from protonorm_jax.command import cli, commands, flags
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.running import grid


def chosen(*words):
    return flags.chosen(commands.parse(["run", *map(str, words)]))


def printed(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main(["run", *map(str, words)]) == 0
    return out.getvalue()


@pytest.fixture
def written(tmp_path):
    """Writes a file and returns its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


EQUAL = {
    "c.toml": """
        # Training.
        rounds = 7
        learning_rate = 1e-3
        num_clients = 5
        shuffle = false
        classes = "0-4"
        method = "fedtgp"
        [fedtgp]
        margin = 3  # An integer is a number.
        """,
    "c.yaml": """
# Training.
rounds: 7
learning_rate: 1e-3
num_clients: 5
shuffle: no
classes: 0-4
method: fedtgp
fedtgp:
  margin: 3
""",
    "c.yml": """
{rounds: 7, learning_rate: .001, num_clients: 05, shuffle: false, classes: '0-4',
 method: fedtgp, method_settings: {margin: 3.0}}
""",
    "c.json": json.dumps(
        {"rounds": 7, "learning_rate": 0.001, "num_clients": 5, "shuffle": False}
        | {"classes": "0-4", "method": "fedtgp", "method_settings": {"margin": 3}}
    ),
}
SETTINGS = Config(
    rounds=7, learning_rate=0.001, num_clients=5, shuffle=False, classes="0-4", method="fedtgp"
).replace(margin=3.0)


@pytest.mark.parametrize("name", EQUAL)
def test_the_same_settings_in_every_form(name, written):
    path = written(name, EQUAL[name])
    assert chosen("--config", path) == SETTINGS
    over = chosen("--config", path, "--rounds", "9", "--margin", "5", "--shuffle")
    assert over == SETTINGS.replace(rounds=9, margin=5.0, shuffle=True)
    other = chosen("--config", path, "--method", "local")
    assert other == Config(**SETTINGS.to_dict() | {"method": "local", "method_settings": {}})


def test_of_several_methods_the_one_chosen_has_its_table(written):
    text = "rounds = 3\n[protonorm]\nscale = 5\n[fedtgp]\nmargin = 6\n"
    path = written("c.toml", text)
    assert chosen("--config", path) == Config(rounds=3).replace(scale=5.0)
    told = chosen("--config", path, "--method", "fedtgp")
    assert told == Config(rounds=3, method="fedtgp").replace(margin=6.0)
    assert chosen("--config", path, "--method", "local") == Config(rounds=3, method="local")


BAD = {
    "an unknown key": ("c.toml", "ruonds = 3", "no field 'ruonds' (did you mean 'rounds'?)"),
    "with its line": ("c.yaml", "seed: 1\n\nruonds: 3", "(did you mean 'rounds'?) in '", "line 3"),
    "another's name": ("c.yml", "lr: 3", "(did you mean 'learning_rate'?)", "line 1"),
    "a setting of a method": ("c.toml", "margin = 3", "no field 'margin'; it belongs to fedtgp"),
    "of a table": (
        *("c.yaml", "method: fedtgp\nfedtgp:\n  distance: mse\n  marign: 3"),
        *("fedtgp has no setting 'marign' (did you mean 'margin'?)", "line 4"),
    ),
    "of a table not chosen": ("c.toml", "[fedtgp]\nmarign = 3", "fedtgp has no setting 'marign'"),
    "of method_settings": (
        *("c.yaml", "method_settings:\n  margin: 3", "protonorm has no setting 'margin'", "line 2"),
    ),
    "both ways": (
        *("c.yaml", "protonorm: {scale: 3}\nmethod_settings: {scale: 4}"),
        *("protonorm.scale must be given once", "line 1"),
    ),
    "a table of no method": ("c.toml", "[fedtpg]\nmargin = 3", "(did you mean 'fedtgp'?)"),
    "a word for a number": ("c.yaml", "rounds: many", "Config.rounds must be an integer", "line 1"),
    "a number in quotes": ("c.yaml", "alpha: '0.1'", "Config.alpha must be a number, got '0.1'"),
    "a number for a word": ("c.yaml", "data: 3", "Config.data must be text, got 3", "line 1"),
    "a fraction": ("c.toml", "rounds = 1.5", "Config.rounds must be an integer, got 1.5 in "),
    "out of range": ("c.yaml", "alpha: -1", "Config.alpha must be > 0, got -1.0", "line 1"),
    "of a method out of range": (
        *("c.yaml", "protonorm:\n  scale: -1", "protonorm.scale must be >", "line 2"),
    ),
    "no number": ("c.toml", "alpha = nan", "Config.alpha must be finite"),
    "a date": ("c.toml", "data = 2020-01-01", "Config.data must be text"),
    "nothing": ("c.yaml", "rounds:", "Config.rounds must be an integer, got None", "line 1"),
    "a list": ("c.yaml", "- rounds: 3", "config must hold settings by name, got a list"),
    "a key twice": ("c.yaml", "rounds: 3\nseed: 1\nrounds: 4", "line 3: rounds must be there once"),
    "a key twice in TOML": ("c.toml", "rounds = 3\nrounds = 4", "config must be valid TOML"),
    "a key that is no text": ("c.yaml", "3: 4", "line 1: a key must be text"),
    "no TOML": ("c.toml", "rounds: 3", "config must be valid TOML, got", "line 1"),
    "no YAML": ("c.yaml", "rounds: [3\nseed: 1", "config must be valid YAML, got", "line 2"),
    "two documents": ("c.yaml", "rounds: 3\n---\nrounds: 4", "config must be valid YAML"),
    "an object of Python": ("c.yaml", "data: !!python/name:os.system", "must be valid YAML"),
    "too deep": ("c.yaml", "data: " + "[" * 700, "config must be valid YAML", "too deep"),
    "too deep for TOML": ("c.toml", "data = " + "[" * 700, "config must be valid TOML"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_file_is_one_line(case, written):
    name, text, *words = BAD[case]
    path = written(name, text)
    with pytest.raises(UsageError) as error:
        config.from_recorded(config.read_file(path))
    line = str(error.value)
    assert "\n" not in line
    assert [word for word in (*words, str(path)) if word not in line] == []


def test_the_command_line_says_what_is_wrong(capsys, tmp_path):
    path = tmp_path / "c.yaml"
    assert cli.main(["run", "--config", str(path), "--print-config"]) == 2
    assert "config must be a readable YAML file" in capsys.readouterr().err
    path.write_text("seed: 1\nruonds: 3\n")
    assert cli.main(["run", "--config", str(path), "--print-config"]) == 2
    words = "protonorm: Config has no field 'ruonds' (did you mean 'rounds'?) in "
    assert capsys.readouterr() == ("", f"{words}'{path}', line 2\n")


def test_the_example_of_the_readme(written):
    readme = pathlib.Path(__file__).parent.parent / "README.md"
    (text,) = re.findall(r"```toml\n(.*?)```", readme.read_text(), re.DOTALL)
    wanted = Config(rounds=50, method="fedtgp", method_settings={"margin": 50.0})
    assert chosen("--config", written("c.toml", text)) == wanted


def test_an_empty_file_changes_nothing(written):
    assert chosen("--config", written("c.yaml", "# Nothing yet.\n")) == Config()
    assert chosen("--config", written("c.toml", "")) == Config()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E3", 1500.0),
        ("-.5", -0.5),
        ("010", 10),
        ("+7", 7),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("12:30:00", "12:30:00"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("2020-01-01", "2020-01-01"),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("<<", "<<"),
    ],
)
def test_plain_words_of_yaml(text, value, written):
    (found,) = documents.read(written("a.yaml", f"- {text}")).value
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("name", methods.METHODS)
def test_what_is_written_is_read_as_the_same(name, written):
    own = Config(method=name, rounds=3)
    for form in config.FORMS:
        text = config.text_of(own, form)
        assert config.from_recorded(config.read_file(written(f"c.{form}", text))) == own
        for setting in [*own.to_dict(), *own.method_settings]:
            assert setting in text or setting == "method_settings"


@pytest.mark.parametrize("form", config.FORMS)
def test_what_is_printed_is_taken_by_every_command(form, written):
    given = ("--method", "fedtgp", "--margin", "0.5", "--fidelity", "reference")
    path = written(f"c.{form}", printed(*given, "--print-config", form))
    wanted = Config(method="fedtgp", fidelity="reference", method_settings={"margin": 0.5})
    assert chosen("--config", path) == wanted
    if form == "toml":
        for command in ("sweep", "compile", "export"):
            own = ["--to", "pfllib:x"] if command == "export" else []
            parsed = commands.parse([command, "--config", str(path), *own])
            assert flags.chosen(parsed) == wanted


def test_comments_say_what_a_setting_is():
    text = printed("--print-config")
    assert "# Training\n" in text and "[protonorm]\n" in text
    assert "# dirichlet: concentration; small is more skewed (default 0.1)\nalpha = 0.1\n" in text
    field = settings.fields(methods.METHODS["protonorm"].settings)["scale"]
    assert field.metadata["help"][:40] in text


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
TRAPS = ["no", "1e-3", "12:30", "a: b", "#x", "~", "'", '"', "\\", "0x1", " x ", "010", ".inf"]
PATHS = st.one_of(
    WORDS, st.sampled_from(TRAPS), st.text(string.printable.strip(), min_size=1, max_size=8)
)


def drawn_value(draw, field, kind, rule):
    if "choices" in rule:
        return draw(st.sampled_from(rule["choices"]))
    if kind is bool:
        return draw(st.booleans())
    if kind is int:
        least = rule.get("least", rule.get("above", 0) + 1 if "above" in rule else 0)
        return draw(st.integers(least, min(rule.get("most", 2**31), 2**31)))
    if kind is float:
        low, high = (
            rule.get("least", rule.get("above", 0)),
            rule.get("most", rule.get("below", 1e9)),
        )
        return draw(
            st.floats(
                *(low, high),
                exclude_min="above" in rule,
                exclude_max="below" in rule,
                allow_subnormal=False,
            )
        )
    return field.default


@st.composite
def drawn_configs(draw):
    """Settings of any method, such as may be; texts hold what forms of files could mistake."""
    name = draw(st.sampled_from(list(methods.METHODS)))
    free = ("min_samples", "alpha", "rounds", "batch_size", "seed", "eval_every", "learning_rate")
    free += ("participation", "dropout", "failures", "keep_state", "last_batch", "precision")
    values = {"method": name, "group_labels": draw(PATHS), "data": "npz:" + draw(PATHS)}
    for one in draw(st.sets(st.sampled_from(free))):
        field = settings.fields(Config)[one]
        kind, _ = settings.field_type(Config, one)
        values[one] = drawn_value(draw, field, kind, field.metadata)
    group, own = methods.METHODS[name].settings, {}
    for one, field in settings.fields(group).items():
        kind, _ = settings.field_type(group, one)
        if draw(st.booleans()):
            own[one] = drawn_value(draw, field, kind, field.metadata)
    return Config(**values, method_settings=own)


@pytest.mark.parametrize("form", config.FORMS)
def test_text_stays_text(form, written):
    for word in TRAPS:
        own = Config(group_labels=word)
        path = written(f"c.{form}", config.text_of(own, form))
        assert config.from_recorded(config.read_file(path)) == own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.mark.parametrize("form", config.FORMS)
@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(data=st.data())
def test_drawn_settings_are_read_as_they_were_written(form, folder, data):
    drawn = data.draw(drawn_configs())
    path = folder / f"c.{form}"
    path.write_text(config.text_of(drawn, form), encoding="utf-8")
    again = config.from_recorded(config.read_file(path))
    assert again == drawn and again.digest() == drawn.digest()


def test_a_path_of_a_record_is_absolute_elsewhere(written, tmp_path, monkeypatch):
    """As the record is read from anywhere."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "set.npz").touch()
    recorded = Config(data="set.npz").to_dict() | {"relative_to": {"data": str(tmp_path / "there")}}
    path = written("config.json", json.dumps(recorded))
    monkeypatch.chdir(tmp_path)
    text = printed("--config", path, "--print-config")
    assert f'data = "{tmp_path / "there" / "set.npz"}"' in text


GRIDS = {
    "g.toml": 'method = ["protonorm", "fedtgp"]\nseed = [1, 2]\n[fedtgp]\nmargin = [0.1, 100]\n',
    "g.yaml": "method: [protonorm, fedtgp]\nseed: [1, 2]\nfedtgp.margin: [1e-1, 100]\n",
    "g.json": '{"method": ["protonorm", "fedtgp"], "seed": [1, 2], "fedtgp.margin": [0.1, 100]}',
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_in_every_form(name, written):
    axes = {"method": ["protonorm", "fedtgp"], "seed": [1, 2], "fedtgp.margin": [0.1, 100]}
    assert grid.read_grid(written(name, GRIDS[name])) == [axes]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.toml", "[[grids]]\nscale = [1, 2]\n[[grids]]\nseed = [3]\n"),
        ("g.yml", "grids:\n- scale: [1, 2]\n- seed: [3]\n"),
        ("g.yaml", "- scale: [1, 2]\n- seed: [3]\n"),
        ("g", '[{"scale": [1, 2]}, {"seed": [3]}]'),
    ],
)
def test_several_grids(name, text, written):
    assert grid.read_grid(written(name, text)) == [{"scale": [1, 2]}, {"seed": [3]}]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("g.toml", "scale: 1", "grid must be a readable TOML file"),
        ("g.yaml", "scale: [1\n", "grid must be a readable YAML file"),
        ("g.yaml", "3", "grid must hold values by setting or a list"),
        ("g.yaml", "fedtgp.margin: [1]\nfedtgp: {margin: [2]}", "fedtgp.margin once"),
    ],
)
def test_grids_that_are_none(name, text, words, written):
    with pytest.raises(UsageError, match=words):
        grid.read_grid(written(name, text))
