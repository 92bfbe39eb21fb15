"""The page on recorded runs: complete in itself, true to the runs, and safe with any name."""

import base64
import csv
import html.parser
import io
import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import written_runs
from scipy import stats
from written_runs import METHODS, YARDSTICK, write_experiment, write_run, write_sweep

from protonorm_jax.command import cli
from protonorm_jax.errors import UsageError
from protonorm_jax.report import page
from protonorm_jax.running import runs

SEEDS = 3
VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"&'\\textbf{}%_$#^~[x]`",
    "=cmd|'/c calc'!A0",
    "+1-1",
    "-x\ty\r\nz",
    "@\u2028\u2029\u202e\x1b[31m",
    "{{ 7 * 7 }}{% raw %}",
)


class Reader(html.parser.HTMLParser):
    """What a browser would find: elements, their attributes, and whether they are closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"an attribute of {tag} is there twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name):
        return [own[name] for _, own in self.elements if name in own]


def make(*directories, out, **flags):
    """Writes a page with the command, and returns its text."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    assert cli.main(["report", *map(str, directories), "--out", str(out), *words]) == 0
    return out.read_text(encoding="utf-8")


def refused(*words, capsys):
    assert cli.main(["report", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def files(text, ending):
    """The files that a page has in links, by name."""
    found = {}
    for tag, own in Reader(text).elements:
        if tag == "a" and own.get("download", "").endswith(ending):
            content = own["href"].partition("base64,")[2]
            found[own["download"]] = base64.b64decode(content).decode("utf-8")
    return found


def records(text, name):
    content = files(text, ".csv")[name].removeprefix("\ufeff")
    return list(csv.DictReader(io.StringIO(content, newline="")))


def numbers(text):
    return json.loads(re.search(r'id="numbers">(.*?)</script>', text, re.DOTALL)[1])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A sweep in which one seed diverged, one is under way and one has not begun; and others."""
    root = tmp_path_factory.mktemp("page")
    several = [{"method": name, "seed": seed} for name in METHODS for seed in range(SEEDS)]
    several[1 * SEEDS]["status"] = "failed"
    several[2 * SEEDS]["status"] = "running"
    several[3 * SEEDS]["status"] = "not begun"
    write_sweep(root / "sweep", several, features=30)
    bound = [{"method": "local", "seed": seed} for seed in range(2)]
    write_sweep(root / "pooled", bound, pooled_clients=6, num_clients=1)
    write_experiment(root / "tuned")
    write_run(root / "old", "protonorm", 7, old=True)
    return root


@pytest.fixture(scope="module")
def text(places):
    return make(places / "sweep", places / "pooled", out=places / "page.html")


@pytest.fixture(scope="module")
def tuned(places):
    return make(places / "tuned", out=places / "tuned.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("page") / "<b>\"'&{{ x }}"
    several = [{"method": name, "seed": seed} for name in HOSTILE for seed in range(2)]
    write_sweep(root / "=sweep", several, data=HOSTILE[0], names=HOSTILE)
    write_run(root / "@run", HOSTILE[1], 3, names=HOSTILE, data=HOSTILE[3])
    page = make(root / "=sweep", root / "@run", out=root / "page.html", title=HOSTILE[1])
    return root, page


def test_everything_is_in_the_page(text, tuned, hostile):
    for one in (text, tuned, hostile[1]):
        found = Reader(one)
        links = found.attributes("href")
        assert len(links) > 20
        assert all(link.startswith(("#", "data:")) for link in links)
        assert {"src", "srcset", "action"}.isdisjoint(n for _, own in found.elements for n in own)
        names = found.attributes("id")
        assert len(set(names)) == len(names)
        assert {link[1:] for link in links if link.startswith("#")} <= set(names)
        assert set(found.attributes("aria-labelledby")) <= set(names)
        assert "url(" not in one and "@import" not in one and "http:" not in strip_names(one)


def strip_names(text):
    """A page without the names of the language of pictures."""
    return text.replace('xmlns="http://www.w3.org/2000/svg"', "")


def test_the_policy_lets_only_our_script_run(text):
    policies = [own["content"] for _, own in Reader(text).elements if "http-equiv" in own]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert policies[0].startswith("default-src 'none';")
    assert f"script-src '{page._digest(script)}'" in policies[0]
    assert "unsafe-inline" not in policies[0].partition("script-src")[2].partition(";")[0]


def test_pictures_are_xml_with_words_for_those_who_do_not_see_them(text, tuned, hostile):
    for one, least in ((text, 8), (tuned, 4), (hostile[1], 3)):
        pictures = [found for found in re.findall("<svg.*?</svg>", one) if "chart" in found]
        assert len(pictures) >= least
        for picture in pictures:
            root = ElementTree.fromstring(picture)
            assert root.get("role") == "img" and root.get("aria-label")
            assert "nan" not in re.sub(
                "<text.*?</text>|<title>.*?</title>|aria-label=.*?>", "", picture
            )


def test_equal_runs_are_an_equal_page(places, text, capsys):
    assert make(places / "sweep", places / "pooled", out=places / "again.html") == text
    said = capsys.readouterr().out
    assert "protonorm − fedproto: +" in said
    assert re.search(r"^ *fedproto +3†1 +\d\d\.\d ± \d+\.\d† ", said, re.MULTILINE)
    assert re.search(r"^ *yardstick +62\.0 *$", said, re.MULTILINE)


def test_names_stay_text(hostile):
    root, text = hostile
    found = Reader(text)
    assert [own for tag, own in found.elements if tag == "script"] == [
        {"type": "application/json", "id": "numbers"},
        {},
    ]
    assert not [tag for tag, _ in found.elements if tag in ("img", "iframe", "b", "object")]
    assert not [name for _, own in found.elements for name in own if name.startswith("on")]
    for name in HOSTILE:
        assert page.escapes.name(name) in found.text
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert page.escapes.name(root) in found.text
    assert numbers(text)["comparisons"][0]["results"][0]["method"] in HOSTILE


def test_spreadsheets_find_no_formula(hostile):
    found = files(hostile[1], ".csv")
    seen = set()
    for content in found.values():
        for row in csv.reader(io.StringIO(content.removeprefix("\ufeff"), newline="")):
            for cell in row:
                seen.add(cell)
                if cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r")):
                    float(cell)
    assert {"'=cmd|'/c calc'!A0", "'+1-1", r"'-x\ty\r\nz", r"'@\u2028\u2029\u202e\x1b[31m"} <= seen
    assert {HOSTILE[0], HOSTILE[2]} <= seen


def test_latex_keeps_its_form_whatever_the_names(hostile, text, tuned):
    for one in (hostile[1], text, tuned):
        found = files(one, ".tex")
        assert len(found) >= 4
        for content in found.values():
            assert_latex(content)
    best = [line for line in found["comparison-1-results.tex"].splitlines() if "textbf" in line]
    assert len(best) == 1 and best[0].strip().startswith("protonorm &")


def assert_latex(content):
    """Every special letter is escaped, braces are in pairs, and rows are as wide as the table."""
    lines = content.splitlines()[1:]  # After a comment.
    known = re.compile(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|"
                       r"textbar|textquotedbl|textquotesingle|textasciigrave|ldots)\{\}|"
                       r"\$\\?[\^a-z_]+(\\circ)?\$|\$-\$|\\[&%$#_{}]")  # fmt: skip
    body = "\n".join(lines)
    plain = known.sub("", body)
    depth = 0
    for letter in plain:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    (form,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", body)
    rows = [line for line in plain.splitlines() if line.endswith(r"\\")]
    assert rows and all(line.count("&") == len(form) - 1 for line in rows)
    for line in rows:
        assert not re.search(r"[%#_^~$]", line)
    for command in ("toprule", "midrule", "bottomrule", "caption"):
        assert f"\\{command}" in body


def outcomes(places, method):
    """The primary outcomes of a method by seed, read from its files."""
    found = {}
    for path in sorted((places / "sweep/runs").iterdir()):
        if not (path / "summary.json").exists():
            continue
        summary = json.loads((path / "summary.json").read_text())
        if summary["method"] == method:
            seed = json.loads((path / "config.json").read_text())["seed"]
            name = f"{METHODS[method][3]}_accuracy_selected"
            lost = summary["status"] == "failed"
            found[seed] = summary["majority_accuracy"] if lost else summary[name]
    return found


def test_main_table_has_the_outcomes_the_bounds_and_the_yardstick(places, text):
    rows = {row["arm"]: row for row in records(text, "comparison-1-results.csv")}
    assert list(rows)[-3:] == ["pooled", "local", "yardstick"]
    for method in METHODS:
        values = list(outcomes(places, method).values())
        row = rows[method]
        assert float(row["test_accuracy"]) == pytest.approx(np.mean(values), abs=1e-12)
        assert int(row["seeds"]) == len(values)
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert float(row["low"]) == pytest.approx(low) and float(row["high"]) == pytest.approx(high)
    assert float(rows["yardstick"]["test_accuracy"]) == YARDSTICK
    assert len(rows["local"]["test_accuracy"]) > 6  # In full.
    half = stats.sem(list(outcomes(places, "fd").values())) * stats.t.ppf(0.975, 1)
    assert f"± {half * 100:.1f}" in Reader(text).text


def test_differences_are_by_seed(places, text):
    rows = {row["subtrahend"]: row for row in records(text, "comparison-1-differences.csv")}
    first = outcomes(places, "protonorm")
    p_values = {}
    for method in ("fedproto", "fedtgp", "fd", "local"):
        second = outcomes(places, method)
        pairs = [first[seed] - second[seed] for seed in first.keys() & second.keys()]
        row = rows[method]
        assert row["minuend"] == "protonorm"
        assert int(row["pairs"]) == len(pairs)
        assert float(row["difference"]) == pytest.approx(np.mean(pairs), abs=1e-12)
        p_values[method] = stats.ttest_1samp(pairs, 0).pvalue
    smallest = min(p_values, key=p_values.get)
    assert float(rows[smallest]["p (Holm)"]) == pytest.approx(min(1, 4 * p_values[smallest]))
    mean = np.mean([first[s] - outcomes(places, "local")[s] for s in first]) * 100
    said = Reader(text).text
    assert f"protonorm − local: +{mean:.1f} points [" in said
    assert "Not paired with fedtgp and fd: seed 0: no run" not in said  # Each has its own reason.
    assert "Not paired with fedtgp: seed 0: no run of fedtgp." in said


def test_what_diverged_is_marked_and_what_is_unfinished_is_apart(places, text):
    said = Reader(text).text
    assert "† fedproto: 1 of 3 seeds diverged (0) and counts with the yardstick." in said
    assert "Seeds that diverged, and count with the yardstick: fedproto 1 of 3." in said
    assert "Not all runs are finished (1 killed and 1 not begun)" in said
    apart = records(text, "set-apart.csv")
    assert [(row["method"], row["reason"]) for row in apart] == [
        ("fedtgp", "killed after round 5 of 12"),
        ("fd", "not begun"),
    ]
    every = records(text, "runs.csv")
    assert len(every) == 5 * SEEDS - 2 + 2
    assert [row["status"] for row in every].count("diverged") == 1
    assert all(len(row["partition digest"]) == 64 for row in every)


def test_best_round_by_test_is_marked_as_no_result(places, text):
    rows = {row["arm"]: row for row in records(text, "comparison-1-predictors.csv")}
    summaries = [
        json.loads((places / f"sweep/runs/000{k}/summary.json").read_text()) for k in range(SEEDS)
    ]
    best = np.mean([one["prototype_accuracy_best"] for one in summaries])
    assert float(rows["protonorm"]["best_round_by_test"]) == pytest.approx(best)
    assert "the habit of the reference codes, optimistic, and no result" in Reader(text).text
    assert "best_round_by_test" not in files(text, ".csv")["comparison-1-results.csv"]


def test_what_is_declared_and_what_is_exploratory(text, places):
    said = Reader(text).text
    assert "test accuracy over all samples of all clients" in said
    assert "in the round with the best validation accuracy" in said
    assert "protonorm with each other arm (the default; --against names another)" in said
    parts = re.findall(r"<h3[^>]*>([^<]*)(<span class=\"exploratory\">)?", text)
    marked = {title: bool(mark) for title, mark in parts}
    assert not marked["Results"] and not marked["Differences"]
    for title in ("Cost", "Clients", "Angles between prototypes", "All predictors"):
        assert marked[title]
    other = make(places / "sweep", out=places / "fd.html", against="fd")
    assert "fd with each other arm:" in Reader(other).text
    assert {row["minuend"] for row in records(other, "comparison-1-differences.csv")} == {"fd"}


def test_what_is_missing_is_said_with_the_way_to_get_it(places, text):
    out = places / "old.html"
    said = Reader(make(places / "old", out=out)).text
    for words in (
        "No pooled runs, the upper bound",
        "--pooled-clients 6",
        "No Local, the lower bound",
        "--validation-fraction",
        "Clients.npz in 1 run, such as",
        "--keep-features",
        "no round could be selected: what is quoted is the last round",
        "There is no second arm to hold it against",
        "Some arms have 1 seed only",
        "in the last round, as no run has validation samples",
    ):
        assert words in said
    assert "What is missing Nothing that this page can show is missing." in Reader(text).text


def test_pooled_runs_below_a_method_are_no_bound(tmp_path):
    write_run(tmp_path / "fd", "fd")
    write_run(tmp_path / "pooled", "local", pooled_clients=6, num_clients=1, gain=-0.3)
    said = Reader(make(tmp_path / "fd", tmp_path / "pooled", out=tmp_path / "page.html")).text
    assert "pooled is no upper bound here, with fd above it" in said


def test_a_fixed_partition_is_said(tmp_path):
    several = [{"method": name, "seed": seed} for name in ("fd", "local") for seed in range(2)]
    write_sweep(tmp_path / "fixed", several, partition="file:split.json")
    said = Reader(make(tmp_path / "fixed", out=tmp_path / "page.html")).text
    assert "intervals cover the randomness of training alone" in said


def test_tuning_shows_the_choice_with_every_budget(places, tuned):
    choices = json.loads((places / "tuned/choices.json").read_text())
    said = Reader(tuned).text
    rows = records(tuned, "tuning-1-choices.csv")
    assert [row["method"] for row in rows] == ["protonorm", "fedproto", "local"]
    for row, choice in zip(rows, choices, strict=True):
        assert float(row["learning_rate"]) == choice["point"]["learning_rate"]
        assert row["diverged"] == "1" and row["seconds"] == "24.0"
    tried = records(tuned, "tuning-1-tried.csv")
    assert len(tried) == 18 and [row["validation_accuracy"] for row in tried].count("") == 3
    assert "Each method was given 6 points, with 1 seed each (1000) and 12 rounds" in said
    assert "protonorm, fedproto and local are level with the whole budget of 6." in said


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], "a leads with every budget from 1 to 3."),
        ([0.5, 0.6, 0.7], [0.6, 0.6, 0.6], "but with 2 of the 3 budgets only"),
        ([0.5, 0.6, 0.7], [0.6, 0.6, 0.7], "a and b are level with the whole budget of 3."),
        ([0.5, 0.6, 0.7], [0.6, math.nan, 0.7], ""),
        ([0.5, 0.6, 0.7], [0.6, 0.7], ""),
    ],
)
def test_who_leads_with_smaller_budgets(first, second, words):
    assert words in " ".join(page.tuned._turns([("a", first), ("b", second)]))
    assert bool(words) == bool(page.tuned._turns([("a", first), ("b", second)]))


def test_an_edge_and_a_lone_budget(places, tmp_path):
    choices = json.loads((places / "tuned/choices.json").read_text())
    tried = choices[0]["tried"]
    for count, expected in enumerate(page.tuned._budget(tried), 1):
        # The last one has diverged; of two that are equal the first was tried first.
        best = [
            max(some, key=lambda one: one["validation_accuracy"] or -1)["test_accuracy"]
            for some in itertools.combinations(tried, count)
        ]
        assert expected == pytest.approx(np.mean(best))
    choices[0]["edges"] = ["learning_rate"]
    tuning = json.loads((places / "tuned/tuning.json").read_text())
    found = page.tuned.part("x", tuning, choices, 18, "tuning-1", {"fedproto": "s0"})
    assert [text for text in found.warnings if "protonorm: learning_rate" in text]
    assert [row.cells[1].mark for row in found.tables[1].rows] == ["*", "", ""]
    # A method has the colour that it has in other pictures, or one that no other has.
    styles = {label: style for style, _, label in found.legend}
    assert styles == {"protonorm": "s1", "fedproto": "s0", "local": "local"}


def test_tuning_that_goes_on_is_said(places, tmp_path):
    (tmp_path / "on").mkdir()
    content = (places / "tuned/tuning.json").read_text()
    (tmp_path / "on/tuning.json").write_text(content)
    said = Reader(make(tmp_path / "on", places / "old", out=tmp_path / "page.html")).text
    assert "tuning is not over" in said and "0 of 18 runs have a result" in said


@pytest.mark.parametrize("number", [2, 9, 10])
def test_a_critical_difference_takes_ten_data_sets(tmp_path, number):
    found = []
    for place in range(number):
        several = [{"method": name, "seed": 0} for name in ("protonorm", "fd", "local")]
        write_sweep(tmp_path / str(place), several, data=f"set{place}.npz")
        found.append(tmp_path / str(place))
    text = make(*found, out=tmp_path / "page.html")
    rows = records(text, "mean-ranks.csv")
    assert [row["arm"] for row in rows] == ["protonorm", "fd", "local"]
    assert float(rows[0]["mean rank"]) == 1 and rows[0]["set1.npz"] == "1.0"
    assert ("critical difference 1.05" in Reader(text).text) == (number == 10)
    assert (f"With {number} data sets there is no critical difference" in text) == (number < 10)


def test_many_arms_are_in_the_tables_and_the_best_in_the_pictures(tmp_path):
    rates = [0.001 * k for k in range(1, 21)]
    several = [{"method": "fd", "learning_rate": rate, "seed": 0} for rate in rates]
    write_sweep(tmp_path / "sweep", several)
    text = make(tmp_path / "sweep", out=tmp_path / "page.html", against="fd, learning_rate=0.012")
    assert len(records(text, "comparison-1-differences.csv")) == 19
    legend = re.findall(r'class="swatch (s\d+)".*?</svg>(.*?)</li>', text)
    assert [style for style, _ in legend] == [f"s{k}" for k in range(16)]
    assert "fd, learning_rate=0.012" in [label for _, label in legend]
    assert "4 further arms in the tables only" in Reader(text).text


def test_curves_count_a_diverged_seed_with_the_yardstick(places):
    found = [
        run for run in runs.read_runs([places / "sweep"]) if run.config["method"] == "fedproto"
    ]
    curve = page.figures._curve(found)
    series = [{row["round"]: row["prototype_accuracy"] for row in run.rows} for run in found]
    assert list(curve.rounds) == list(range(1, 13))
    assert curve.mean[4] == pytest.approx(np.mean([one[5] for one in series]))
    later = [YARDSTICK, series[1][6], series[2][6]]
    assert curve.mean[5] == pytest.approx(np.mean(later))
    half = stats.sem(later) * stats.t.ppf(0.975, 2)
    assert curve.high[5] - curve.mean[5] == pytest.approx(half)
    assert curve.floats[0] == 1800


def test_a_folder_gets_an_index(places, tmp_path):
    assert cli.main(["report", str(places / "old"), "--out", str(tmp_path / "deep/page")]) == 0
    assert page.is_page((tmp_path / "deep/page/index.html").read_bytes())


def test_only_pages_of_ours_give_way(places, tmp_path, capsys):
    out = tmp_path / "page.html"
    out.write_text("<!DOCTYPE html><title>mine</title>")
    error = refused(places / "old", "--out", out, capsys=capsys)
    assert "--out must be a new file, or a page that protonorm report has made" in error
    assert out.read_text() == "<!DOCTYPE html><title>mine</title>"
    out.unlink()
    first = make(places / "old", out=out)
    assert make(places / "sweep", out=out) != first
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_file_in_the_way_of_a_folder(places, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    error = refused(places / "old", "--out", tmp_path / "taken", capsys=capsys)
    assert "--out must be a file that can be written" in error


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("", "DIR must be the directory of a run, a sweep or a tuned experiment"),
        ("config.json", "DIR must be the directory of a run with a readable config.json"),
        ("manifest.json", "readable manifest.json"),
        ("clients.npz", "readable clients.npz"),
        ("prototypes.npz", "readable prototypes.npz"),
    ],
)
def test_what_is_no_run_is_one_line_and_no_page(tmp_path, capsys, damage, words):
    directory = tmp_path / "run"
    directory.mkdir()
    if damage:
        directory.rmdir()
        write_run(directory, "protonorm")
        (directory / damage).write_bytes(b"[]\0")
    assert words in refused(directory, "--out", tmp_path / "page.html", capsys=capsys)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "changed",
    [{"train_by_class": {"x": 1}}, {"train_by_class": {"0": "many"}}, {"test_by_class": []}, 3],
)
def test_a_manifest_with_other_counts_is_one_line(tmp_path, capsys, changed):
    write_run(tmp_path / "run")
    path = tmp_path / "run/manifest.json"
    content = json.loads(path.read_text())
    content["clients"][1] = content["clients"][1] | changed if isinstance(changed, dict) else 3
    path.write_text(json.dumps(content))
    assert "readable manifest.json" in refused(tmp_path / "run", capsys=capsys)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"chosen": 6}, "readable choices.json"),
        ({"tried": 3}, "readable choices.json"),
        ({"tried": [{"point": {}, "diverged": "no"}], "chosen": 0}, "diverged must be an integer"),
    ],
)
def test_choices_of_another_form_are_one_line(tmp_path, capsys, changed, words):
    write_experiment(tmp_path / "tuned", methods=("fd",), seeds=1)
    path = tmp_path / "tuned/choices.json"
    path.write_text(json.dumps([json.loads(path.read_text())[0] | changed]))
    assert words in refused(tmp_path / "tuned", capsys=capsys)


def test_an_arm_that_there_is_not_is_refused(places, capsys):
    error = refused(places / "sweep", "--against", "fedavg", capsys=capsys)
    assert "--against must be a method or an arm of the runs" in error


def test_nothing_to_compare_is_a_page_too(tmp_path):
    write_run(tmp_path / "run", status="running")
    said = Reader(make(tmp_path / "run", out=tmp_path / "page.html")).text
    assert "None of these runs can be compared." in said
    assert "killed after round 5 of 12" in said


def test_the_default_is_the_first_arm_where_a_method_is_several(tmp_path):
    several = [{"method": "protonorm", "learning_rate": rate, "seed": 0} for rate in (0.1, 0.2)]
    write_sweep(tmp_path / "sweep", several)
    content = page.analyse(runs.read_runs([tmp_path / "sweep"]), None)
    assert content.against == "protonorm, learning_rate=0.1"
    assert "protonorm, learning_rate=0.1 − protonorm, learning_rate=0.2" in lines(content)
    content = page.analyse(runs.read_runs([tmp_path / "sweep"]), "protonorm")
    assert "No arm here is the one that others are held against" in lines(content)


@pytest.fixture(scope="module")
def rates_and_methods(tmp_path_factory):
    """Two sweeps that have runs in common: two learning rates of a method, two methods."""
    root = tmp_path_factory.mktemp("apart")
    rates = [
        {"method": "fd", "learning_rate": rate, "seed": seed}
        for rate in (0.01, 0.02)
        for seed in range(3)
    ]
    write_sweep(root / "rates", rates)
    both = [{"method": name, "seed": seed} for name in ("protonorm", "fd") for seed in range(3)]
    write_sweep(root / "methods", both)
    return root


def test_directories_can_be_kept_apart(rates_and_methods, tmp_path):
    found = [rates_and_methods / "rates", rates_and_methods / "methods"]
    together = numbers(make(*found, out=tmp_path / "page.html"))
    assert len(together["comparisons"]) == 1 and len(together["set_apart"]) == 3

    out = tmp_path / "apart.html"
    assert cli.main(["report", *map(str, found), "--out", str(out), "--apart"]) == 0
    text = out.read_text(encoding="utf-8")
    apart = numbers(text)
    assert [one["title"] for one in apart["comparisons"]] == ["rates: digits", "methods: digits"]
    assert [list(one["runs"]) for one in apart["comparisons"]] == [
        ["fd, learning_rate=0.01", "fd, learning_rate=0.02"],
        ["protonorm", "fd"],
    ]
    assert apart["set_apart"] == []
    assert apart["against"] == "rates: fd, learning_rate=0.01; methods: protonorm"
    over = [
        one["difference"]["holm_over"]
        for each in apart["comparisons"]
        for one in each["results"]
        if one["difference"]
    ]
    assert over == [1, 1]
    assert "of one data set and of one directory" in Reader(text).text


def test_parts_without_the_arm_asked_for_have_their_default(rates_and_methods):
    names = ["rates", "methods"]
    parts = {name: runs.read_runs([rates_and_methods / name]) for name in names}
    content = page.analyse_apart(parts, "protonorm")
    assert content.against == "rates: fd, learning_rate=0.01; methods: protonorm"
    with pytest.raises(UsageError, match="got 'fedtgp'"):
        page.analyse_apart(parts, "fedtgp")
    same = page.analyse_apart({"a": parts["methods"], "b": parts["methods"]}, None)
    assert [one.title for one in same.comparisons] == ["a: digits", "b: digits"]


def test_parts_have_ranks_of_their_own(tmp_path):
    for name in ("one", "two"):
        several = [{"method": each, "seed": 0} for each in ("protonorm", "fd")]
        two = [{**one, "data": data} for data in ("a.npz", "b.npz") for one in several]
        write_sweep(tmp_path / name, two)
    parts = {name: runs.read_runs([tmp_path / name]) for name in ("one", "two")}
    content = page.analyse_apart({**parts, "three": parts["one"][:2]}, None)
    assert list(content.ranks) == ["one", "two"]
    text = page.make(content, title=None, version="0", arrays=lambda run, name: {})
    assert {"mean-ranks.csv", "mean-ranks-2.csv"} <= files(text, ".csv").keys()
    assert "two: mean ranks over data sets" in Reader(text).text


def lines(content):
    """What a terminal shows but for tables."""
    return " ".join(one for one in page.shortly(content) if isinstance(one, str))


def test_features_that_cannot_be_drawn_are_named(places, tmp_path):
    write_run(tmp_path / "run", "protonorm", features=30)
    with np.load(tmp_path / "run/features.npz") as file:
        found = dict(file)
    found["features"][3] = math.nan
    np.savez(tmp_path / "run/features.npz", **found)
    said = Reader(make(tmp_path / "run", out=tmp_path / "page.html")).text
    assert "features or prototypes are not finite" in said


def test_prototypes_of_equal_length_are_drawn_as_long_as_features(tmp_path):
    write_run(tmp_path / "run", "protonorm", features=30)
    with np.load(tmp_path / "run/prototypes.npz") as file:
        found = dict(file)
    lengths = np.linalg.norm(found["prototypes"], axis=1, keepdims=True)
    texts = []
    for scale in (lengths, 7 * lengths, lengths[::-1]):
        np.savez(
            tmp_path / "run/prototypes.npz", **{**found, "prototypes": found["prototypes"] / scale}
        )
        texts.append(make(tmp_path / "run", out=tmp_path / "page.html"))
    first, second, other = (re.findall('<g class="prototype">.*?</g>', one) for one in texts)
    # The first five are of PCA; t-SNE turns with the last bits.
    assert first[:5] == second[:5] != other[:5]
    assert ["equally long" in one for one in texts] == [True, True, False]


def test_methods_of_the_tests_are_what_their_papers_say():
    """Else what is checked above would be checked against itself."""
    assert {name for name, row in METHODS.items() if row[3] == "prototype"} == {
        *("protonorm", "fedproto", "fedtgp")
    }
    assert written_runs.config()["method"] == "local"
