"""What the page is put together from: escaped names, tables as files, charts, projections."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from protonorm_jax.report.page import embeddings, escapes, svg, tables
from protonorm_jax.report.page.tables import Cell, Column, Row, Table


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("@x", "'@x"),
        ("  =1", "'  =1"),
        ("\t=1", r"'\t=1"),
        ("\r=1", r"'\r=1"),
        ("-", "'-"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        (-0.5, "-0.5"),
        (None, ""),
        (0.1 + 0.2, "0.30000000000000004"),
        ('a"b,c', 'a"b,c'),
        ("a\nb", r"a\nb"),
        ("plain", "plain"),
    ],
)
def test_cells_of_csv(cell, shown):
    content = escapes.csv_text(["head"], [[cell, "end"]])
    assert list(csv.reader(io.StringIO(content, newline=""))) == [["head"], [shown, "end"]]
    assert content.endswith("\r\n")


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("a_b", r"a\_b"),
        ("50 %", r"50 \%"),
        ("\\x{}", r"\textbackslash{}x\{\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("1 ± 2", r"1 $\pm$ 2"),
        ("[1]", "{[}1{]}"),
        ("a\nb", r"a\textbackslash{}nb"),
        ("$x$", r"\$x\$"),
    ],
)
def test_latex(given, printed):
    assert escapes.latex(given) == printed


def test_json_ends_no_element_and_is_the_same():
    value = {"</script>": ["<!--", "\u2028&\x7f", 1.5, None]}
    text = str(escapes.json_text(value))
    assert json.loads(text) == value
    assert re.fullmatch(r"[ -~]*", text) and "<" not in text and "&" not in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        escapes.json_text([float("nan")])


def test_names_that_are_long_keep_both_ends():
    assert escapes.short("a" * 20 + "z" * 20, 10) == "aaaaaa…zzz"
    assert escapes.short("abc", 3) == "abc"
    assert escapes.short("a\x1bb") == r"a\x1bb"


@pytest.mark.parametrize(
    ("figure", "shown"),
    [("-1.5", "−1.5"), ("-0.0", "0.0"), ("+0.0", "0.0"), ("+0.1", "+0.1"), ("1e-3", "1e-3")],
)
def test_signs(figure, shown):
    assert tables.signed(figure) == shown


def test_a_table_as_csv_and_latex():
    columns = [
        Column("arm", numeric=False),
        Column("a, %", fields=("a", "low")),
        Column("b", printed=False),
    ]
    rows = [
        Row([Cell("x_1"), Cell("12.3", (0.123, None), best=True, mark="†"), tables.number(None)]),
        Row([Cell("bound"), Cell("–"), tables.number(3)], "bound"),
    ]
    table = Table("name", "What it shows", columns, rows, ["50 % of it."])
    assert table.csv == "arm,a,low,b\r\nx_1,0.123,,\r\nbound,–,,3\r\n"
    lines = [line.strip() for line in table.latex.splitlines()]
    assert r"x\_1 & \textbf{12.3}\textsuperscript{$\dagger$} \\" in lines
    assert r"\caption{What it shows 50 \% of it.}" in lines
    assert lines.count(r"\midrule") == 2
    assert table.csv_link.startswith("data:text/csv;charset=utf-8;base64,")


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.62, 0.71, [0.62, 0.64, 0.66, 0.68, 0.7]),
        (1, 12, [2.5, 5, 7.5, 10]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low, high, shown):
    assert svg.ticks(low, high, 5) == pytest.approx(shown)


def test_lines_have_gaps_and_bands_where_there_are_numbers():
    one = svg.Series("<x>", "s0", [1, 2, 3, 4, 5], [0.1, np.nan, 0.3, 0.4, np.nan])
    one = one._replace(low=[0, np.nan, 0.2, 0.3, np.nan], high=[0.2, np.nan, 0.4, 2.0, np.nan])
    picture = svg.lines([one], "x", "y", "words", references=[("level", "yardstick", 0.2)])
    root = ElementTree.fromstring(str(picture))
    space = "{http://www.w3.org/2000/svg}"
    paths = {path.get("class"): path.get("d") for path in root.iter(f"{space}path")}
    assert paths["line"].count("M") == 2 and paths["line"].count("L") == 1
    assert paths["dots"].count("M") == 1  # What stands alone between gaps.
    assert len([path for path in root.iter(f"{space}path") if path.get("class") == "band"]) == 2
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", paths["band"])]
    assert min(heights) >= 10  # No band leaves the picture.
    assert "level: 20.0%" in [title.text for title in root.iter(f"{space}title")]


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    one = svg.Series("x", "s0", [0, 10, 1000], [0.1, 0.2, 0.3])
    picture = str(svg.lines([one], "sent", "y", "words", log_x=True))
    assert ">10<" in picture and ">1k<" in picture
    assert re.search(r'class="line" d="M46.0 [\d.]+L448.0 [\d.]+"', picture)


@pytest.mark.parametrize("series", [[], [svg.Series("x", "s0", [1], [np.nan])]])
def test_nothing_to_draw_is_an_empty_chart(series):
    ElementTree.fromstring(str(svg.lines(series, "x", "y", "words")))


def test_many_clients_are_a_map():
    few = np.zeros((3, 4), int)
    few[1, 2] = 7
    assert str(svg.bubbles(few, ["a", "<b>", "c"], "words")).count("<circle") == 1
    many = np.ones((200, 100), int)
    picture = str(svg.bubbles(many, [""] * 200, "words"))
    assert "<circle" not in picture and "data:image/png;base64," in picture
    ElementTree.fromstring(picture)


def points(number, dimension=6):
    generator = np.random.default_rng(0)
    return generator.normal(size=(number, dimension)).astype(np.float32)


@pytest.mark.parametrize("dimension", [1, 6, 60])
def test_projections_are_the_same_twice(dimension):
    first, second = (
        embeddings.flatten(points(30, dimension), points(3, dimension)) for _ in range(2)
    )
    assert [one.name.split(",")[0] for one in first] == ["PCA", "t-SNE"]
    for one, other in zip(first, second, strict=True):
        assert one.points.shape == (30, 2) and one.prototypes.shape == (3, 2)
        assert np.array_equal(one.points, other.points)
        assert np.array_equal(one.prototypes, other.prototypes)


def test_prototypes_lie_where_their_features_do():
    features = points(20)
    pca = embeddings.flatten(features, features[:4], tsne=False)
    assert len(pca) == 1
    np.testing.assert_allclose(pca[0].prototypes, pca[0].points[:4], atol=1e-9)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (points(9), "only 9 features"),
        (np.ones((20, 3)), "all features are equal"),
        (np.full((20, 3), np.inf), "not finite"),
    ],
)
def test_features_that_cannot_be_drawn(features, words):
    assert words in embeddings.usable(features, np.zeros((0, features.shape[1])))
    assert embeddings.usable(points(20), points(2)) is None


def test_features_are_chosen_evenly():
    assert list(embeddings.chosen(5, 3)) == [0, 2, 4]
    assert len(embeddings.chosen(10_000)) == embeddings.MOST_POINTS
    assert list(embeddings.chosen(3)) == [0, 1, 2]
