"""How results show in notebooks."""

import base64
import io
import re

from PIL import Image

from protonorm_jax import report

ROWS = [
    {"round": n, "prototype_accuracy": 0.2 * n, "head_accuracy": 0.1 * n, "loss": 1 / n}
    for n in (1, 2, 3)
]
SUMMARY = {
    "method": "<b>mine</b>",
    "prototype_accuracy": 0.6000001,
    "prototype_accuracy_best": 0.65,
    "head_accuracy": None,
    "majority_accuracy": 0.5,
    "rounds": 3,
}


def test_a_history_has_its_yardstick_and_its_curves():
    html = report.history_html("mine on <data>", ROWS, SUMMARY)
    cells = re.findall(r"<tr>(.*?)</tr>", html)
    assert cells[1] == "<td>prototype</td><td>0.600</td><td>0.650</td>"
    assert cells[2] == "<td>head</td><td>-</td><td>-</td>"
    assert cells[3] == "<td>most frequent class (yardstick)</td><td>0.500</td><td>0.500</td>"
    (content,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert Image.open(io.BytesIO(base64.b64decode(content))).width > 400


def test_what_stands_in_a_history_is_escaped_and_has_no_colour():
    html = report.history_html("mine on <data>", [], SUMMARY)
    assert "mine on &lt;data&gt;" in html and "&lt;b&gt;mine&lt;/b&gt;" in html
    assert "<img" not in html and "color" not in html
