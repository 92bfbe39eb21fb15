"""Charts as SVG that takes its colours from the page, so that they follow its theme.

Nothing here is random, dated or named, so that equal numbers are equal bytes.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from protonorm_jax.report.clients import joined
from protonorm_jax.report.page import escapes

COLOURS = 16
"""How many series the page has colours for: the CSS classes `s0`, `s1`, ..."""
_WIDTH, _HEIGHT = 460, 300
_LETTER = 6.1  # Of an average letter of the labels, which are 11 units high.
_VIRIDIS = (
    "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"  # In equal steps.
)


Values = Sequence[float] | np.ndarray


class Series(NamedTuple):
    """One line of a chart.

    Attributes:
      label: what it is.
      style: CSS classes, `s0` to `s15` for its colour.
      x: `[n]` ascending.
      y: `[n]`; the line has gaps where they are NaN.
      low: `[n]` lower edge of the band around it.
      high: `[n]` upper edge of the band.
    """

    label: str
    style: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None


class Group(NamedTuple):
    """What one row of a chart of distributions shows.

    Attributes:
      label: what it is.
      style: CSS classes.
      values: of which the distribution is shown.
    """

    label: str
    style: str
    values: Sequence[float]


class _Frame:
    """The axes of a chart: scales, ticks and labels; `parts` are its elements."""

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        *,
        size: tuple[float, float] = (_WIDTH, _HEIGHT),
        margins: tuple[float, float, float, float] = (46, 12, 10, 40),
        log_x: bool = False,
    ) -> None:
        self.size, self.log_x = size, log_x
        left, right, top, bottom = margins
        self.left, self.right = left, size[0] - right
        self.top, self.bottom = top, size[1] - bottom
        self.x_range = (math.log10(x_range[0]), math.log10(x_range[1])) if log_x else x_range
        self.y_range = y_range
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        if self.log_x:
            value = math.log10(max(value, 1e-300))
        return self.left + _share(value, self.x_range) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - _share(value, self.y_range) * (self.bottom - self.top)

    def text(
        self, x: float, y: float, text: str, style: str = "", *, anchor: str = "middle"
    ) -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">'
            f"{_said(text)}</text>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str, title: str = "") -> None:
        inner = f"><title>{_said(title)}</title></line>" if title else "/>"
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"{inner}'
        )

    def x_axis(self, label: str, *, percent: bool = False, whole: bool = False) -> None:
        if self.log_x:
            low, high = math.floor(self.x_range[0] - 1e-9), math.ceil(self.x_range[1] + 1e-9)
            step = max(1, -(-(high - low) // 6))
            values = [10.0**k for k in range(low, high + 1, step)]
            if high - low <= 2:
                values = sorted({*values, *(m * 10.0**k for k in range(low, high) for m in (2, 5))})
            shown = [
                v
                for v in values
                if self.x_range[0] - 1e-9 <= math.log10(v) <= self.x_range[1] + 1e-9
            ]
        else:
            shown = [v for v in ticks(*self.x_range, 6) if not whole or v == round(v)]
        for value in shown:
            x = self.x(value)
            self.line(x, self.top, x, self.bottom, "grid")
            self.text(x, self.bottom + 15, _figure(value, percent))
        self.text((self.left + self.right) / 2, self.size[1] - 6, label, "label")

    def y_axis(self, label: str, *, percent: bool = False) -> None:
        for value in ticks(*self.y_range, 5):
            y = self.y(value)
            self.line(self.left, y, self.right, y, "grid")
            self.text(self.left - 6, y + 4, _figure(value, percent), anchor="end")
        middle = (self.top + self.bottom) / 2
        self.parts.append(
            f'<text transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle" '
            f'class="label">{_said(label)}</text>'
        )

    def frame(self) -> None:
        self.line(self.left, self.bottom, self.right, self.bottom, "axis")
        self.line(self.left, self.top, self.left, self.bottom, "axis")

    def svg(self, description: str, style: str = "") -> Markup:
        return drawing(self.size, self.parts, description, style)


def drawing(
    size: tuple[float, float], parts: Iterable[str], description: str, style: str = ""
) -> Markup:
    """An `<svg>` element.

    Args:
      size: width and height, in units of which a letter is 11 high.
      parts: the elements in it, escaped.
      description: for those who do not see it.
      style: CSS classes.
    """
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]:g} {size[1]:g}" role="img" '
        f'aria-label="{_said(description)}" class="chart {style}" '
        f'style="max-width:{size[0] * 1.25:g}px">{"".join(parts)}</svg>'
    )


def pair(pictures: Sequence[Markup]) -> Markup:
    """Two pictures side by side."""
    return Markup('<div class="pair">') + Markup("").join(pictures) + Markup("</div>")


def lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    description: str,
    *,
    references: Sequence[tuple[str, str, float]] = (),
    log_x: bool = False,
    percent: bool = True,
    dots: bool = False,
    whole: bool = False,
) -> Markup:
    """Lines with bands around them.

    Args:
      series: what is drawn; NaN are gaps.
      x_label: of the axis.
      y_label: of the axis.
      description: for those who do not see it.
      references: label, CSS classes and value of horizontal lines.
      log_x: whether the axis is logarithmic; what is not positive is left out.
      percent: whether values are shares, shown in percent.
      dots: whether each value has a dot.
      whole: whether the axis has whole numbers only.
    """
    drawn = [_positive(one) if log_x else one for one in series]
    drawn = [one for one in drawn if len(one.x) and np.isfinite(one.y).any()]
    curves = [curve for one in drawn for curve in (one.y, one.low, one.high) if curve is not None]
    heights = [np.asarray(curve, float) for curve in curves]
    levels = np.concatenate([*heights, np.array([value for *_, value in references])])
    places = np.concatenate([np.zeros(0), *(np.asarray(one.x, float) for one in drawn)])
    y_range = _padded(levels, bounds=(0, 1) if percent else (-math.inf, math.inf))
    x_range = _span(places, log=log_x)
    frame = _Frame(x_range, y_range, log_x=log_x)
    frame.x_axis(x_label, whole=whole)
    frame.y_axis(y_label, percent=percent)
    for label, style, value in references:
        y = frame.y(value)
        frame.line(frame.left, y, frame.right, y, f"reference {style}", f"{label}: {value:.1%}")
    for one in drawn:
        frame.parts.append(f'<g class="{one.style}"><title>{_said(one.label)}</title>')
        if one.low is not None and one.high is not None:
            frame.parts += _band(frame, one)
        frame.parts.append(f'<path class="line" d="{_path(frame, one.x, one.y)}"/>')
        alone = _alone(np.asarray(one.y, float))
        marked = [
            (x, y)
            for number, (x, y) in enumerate(zip(one.x, one.y, strict=True))
            if math.isfinite(y) and (dots or number in alone)
        ]
        if marked:
            frame.parts.append(_dots(frame, marked))
        frame.parts.append("</g>")
    frame.frame()
    return frame.svg(description)


def distributions(
    groups: Sequence[Group],
    x_label: str,
    description: str,
    *,
    references: Sequence[tuple[str, str, float]] = (),
) -> Markup:
    """A row for each group: all values as dots, above a box of their quartiles and tenths.

    Args:
      groups: what is drawn, values in `[0, 1]`.
      x_label: of the axis.
      description: for those who do not see it.
      references: label, CSS classes and value of vertical lines.
    """
    step = 44
    most = 36
    left = min(max((len(one.label) for one in groups), default=0), most) * _LETTER + 14
    height = step * len(groups) + 50
    values = np.concatenate([np.asarray(one.values, float) for one in groups])
    low = max(0.0, float(np.floor(values.min() * 10) / 10)) if len(values) else 0.0
    frame = _Frame(
        (low, 1),
        (0, 1),
        size=(_WIDTH * 1.4, height),
        margins=(left, 16, 8, 42),
    )
    frame.x_axis(x_label, percent=True)
    for label, style, value in references:
        x = frame.x(value)
        frame.line(x, frame.top, x, frame.bottom, f"reference {style}", f"{label}: {value:.1%}")
    for number, one in enumerate(groups):
        middle = frame.top + step * (number + 0.5)
        inner = np.sort(np.asarray(one.values, float))
        frame.text(left - 8, middle + 4, escapes.short(one.label, most), "row", anchor="end")
        if not len(inner):
            continue
        tenths = np.quantile(inner, [0.1, 0.25, 0.5, 0.75, 0.9])
        worded = ", ".join(f"{value:.0%}" for value in tenths)
        frame.parts.append(
            f'<g class="{one.style}"><title>{_said(one.label)}: tenth, quartile, median, '
            f"quartile, tenth: {worded}</title>"
        )
        # Spread in a pattern that depends on nothing but their order.
        lift = [middle - 5 - 11 * ((k * 0.618034) % 1) for k in range(len(inner))]
        step_over = -(-len(inner) // 600)
        dots = "".join(
            f"M{frame.x(value):.1f} {y:.1f}h0"
            for value, y in list(zip(inner, lift, strict=True))[::step_over]
        )
        frame.parts.append(f'<path class="dots small" d="{dots}"/>')
        low10, low25, half, high75, high90 = (frame.x(value) for value in tenths)
        y = middle + 7
        frame.line(low10, y, high90, y, "whisker")
        frame.parts.append(
            f'<rect x="{low25:.1f}" y="{y - 5:.1f}" width="{max(high75 - low25, 1):.1f}" '
            f'height="10" rx="2" class="box"/>'
        )
        frame.line(half, y - 7, half, y + 7, "median")
        frame.parts.append("</g>")
    frame.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
    return frame.svg(description)


def bubbles(counts: np.ndarray, names: Sequence[str], description: str) -> Markup:
    """Who holds how many samples of which class: bubbles, or a map where there are many.

    Neighbours of many clients are joined, see `clients.joined`.

    Args:
      counts: `[M, C]` samples of each client by class.
      names: of the clients.
      description: for those who do not see it.
    """
    num_clients, num_classes = counts.shape
    most = int(counts.max(initial=1))
    if max(num_clients, num_classes) > 60:
        counts, each = joined(counts)
        rows = counts.T[::-1]
        shares = np.log1p(rows) / math.log1p(int(counts.max(initial=1)))
        height = float(np.clip(40 + 4 * num_classes, 160, 420))
        frame = _Frame(
            (-0.5, len(counts) * each - 0.5),
            (-0.5, num_classes - 0.5),
            size=(_WIDTH * 1.6, height),
        )
        frame.x_axis("client")
        frame.y_axis("class")
        frame.parts.append(_image(frame, shares, rows > 0))
        frame.frame()
        return frame.svg(description, "wide")
    step = float(np.clip(690 / num_clients, 11, 26))
    size = (52 + step * num_clients, 44 + step * num_classes)
    frame = _Frame(
        (-0.5, num_clients - 0.5),
        (-0.5, num_classes - 0.5),
        size=(max(size[0], 200), size[1]),
        margins=(40, max(12, 200 - size[0] + 12), 4, 40),
    )
    every = -(-num_clients // 30)
    for client in range(num_clients):
        frame.line(frame.x(client), frame.top, frame.x(client), frame.bottom, "grid")
        if client % every == 0:
            frame.text(frame.x(client), frame.bottom + 14, str(client))
    every = -(-num_classes // 30)
    for label in range(num_classes):
        frame.line(frame.left, frame.y(label), frame.right, frame.y(label), "grid")
        if label % every == 0:
            frame.text(frame.left - 6, frame.y(label) + 4, str(label), anchor="end")
    for client, label in np.argwhere(counts > 0):
        count = int(counts[client, label])
        radius = max(0.46 * step * math.sqrt(count / most), 1)
        whose = _said(escapes.short(names[client]))
        frame.parts.append(
            f'<circle cx="{frame.x(client):.1f}" cy="{frame.y(label):.1f}" r="{radius:.1f}" '
            f'class="bubble"><title>client {whose}, class {label}: {count:,}</title></circle>'
        )
    frame.text((frame.left + frame.right) / 2, frame.size[1] - 6, "client", "label")
    frame.parts.append(
        f'<text transform="translate(11 {(frame.top + frame.bottom) / 2:.1f}) rotate(-90)" '
        'text-anchor="middle" class="label">class</text>'
    )
    return frame.svg(description, "wide")


def angles(matrix: np.ndarray, labels: Sequence[int], title: str, description: str) -> Markup:
    """A map of the angles between all pairs of classes, from 0 to 120 degrees.

    Args:
      matrix: `[C, C]` degrees; NaN where there is no angle.
      labels: of the classes.
      title: above it.
      description: for those who do not see it.
    """
    number = len(labels)
    frame = _Frame(
        (-0.5, number - 0.5), (number - 0.5, -0.5), size=(250, 262), margins=(32, 8, 24, 28)
    )
    frame.text((frame.left + frame.right) / 2, 14, title, "title")
    frame.parts.append(_image(frame, matrix / 120, np.isfinite(matrix)))
    every = -(-number // 12)
    for place in range(0, number, every):
        frame.text(frame.x(place), frame.bottom + 13, str(labels[place]))
        frame.text(frame.left - 5, frame.y(place) + 4, str(labels[place]), anchor="end")
    return frame.svg(description, "square")


def angle_scale() -> Markup:
    """What the colours of `angles` stand for."""
    frame = _Frame((0, 120), (0, 1), size=(250, 46), margins=(14, 14, 4, 28))
    frame.parts.append(
        _image(frame, np.linspace(0, 1, 121)[None], np.ones((1, 121), bool), smooth=True)
    )
    for value in (0, 30, 60, 90, 120):
        frame.text(frame.x(value), frame.bottom + 14, f"{value}°")
    return frame.svg("colours of angles from 0 to 120 degrees", "scale")


def scatter(
    points: np.ndarray,
    labels: np.ndarray,
    prototypes: np.ndarray,
    prototype_labels: Sequence[int],
    num_classes: int,
    title: str,
    description: str,
) -> Markup:
    """Points in two dimensions, coloured by class, and a numbered mark for each prototype.

    Args:
      points: `[n, 2]`.
      labels: `[n]` their classes.
      prototypes: `[k, 2]`.
      prototype_labels: `[k]` their classes.
      num_classes: number of classes `C`.
      title: above it.
      description: for those who do not see it.
    """
    every = np.concatenate([points, prototypes])
    low, high = every.min(0), every.max(0)
    span = np.where(high > low, high - low, 1.0)
    frame = _Frame(
        (float(low[0] - 0.05 * span[0]), float(high[0] + 0.05 * span[0])),
        (float(low[1] - 0.05 * span[1]), float(high[1] + 0.05 * span[1])),
        size=(300, 300),
        margins=(6, 6, 24, 6),
    )
    frame.text(150, 15, title, "title")
    frame.parts.append(
        f'<rect x="{frame.left}" y="{frame.top}" width="{frame.right - frame.left}" '
        f'height="{frame.bottom - frame.top}" class="panel"/>'
    )
    for label in range(num_classes):
        held = points[labels == label]
        if len(held):
            style = f'class="dots" style="stroke:{class_colour(label, num_classes)}"'
            content = "".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in held)
            frame.parts.append(f'<path {style} d="{content}"><title>class {label}</title></path>')
    for (x, y), label in zip(prototypes, prototype_labels, strict=True):
        frame.parts.append(
            f'<g class="prototype"><circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="8" '
            f'style="fill:{class_colour(label, num_classes)}"/><text x="{frame.x(x):.1f}" '
            f'y="{frame.y(y) + 3.5:.1f}" text-anchor="middle">{label}</text><title>prototype of '
            f"class {label}</title></g>"
        )
    return frame.svg(description, "square")


def critical_difference(
    ranks: Sequence[tuple[str, float]],
    difference: float,
    alike: Sequence[Sequence[str]],
    description: str,
) -> Markup:
    """Mean ranks on a line; bars join those that are alike.

    Args:
      ranks: label and mean rank of each, best first.
      difference: the critical one.
      alike: groups of labels.
      description: for those who do not see it.
    """
    number = len(ranks)
    half = -(-number // 2)
    by_label = dict(ranks)
    top = 52 + 8 * len(alike)
    size = (640, top + 20 * half + 8)
    frame = _Frame((1, max(number, 2)), (0, 1), size=size, margins=(170, 170, 34, size[1] - 35))
    axis = 34
    frame.line(frame.left, axis, frame.right, axis, "axis")
    every = -(-number // 15)
    for value in range(1, number + 1, every):
        frame.line(frame.x(value), axis - 4, frame.x(value), axis, "axis")
        frame.text(frame.x(value), axis - 8, str(value))
    frame.line(frame.left, 12, frame.left + frame.x(1 + difference) - frame.x(1), 12, "cliques")
    frame.text(frame.left - 6, 16, f"critical difference {difference:.2f}", anchor="end")
    for level, group in enumerate(alike):
        y = axis + 10 + 8 * level
        values = [by_label[label] for label in group]
        frame.line(frame.x(min(values)) - 3, y, frame.x(max(values)) + 3, y, "cliques")
    for place, (label, rank) in enumerate(ranks):
        left = place < half
        y = top + 20 * (place if left else number - 1 - place)
        edge = frame.left - 8 if left else frame.right + 8
        frame.line(frame.x(rank), axis, frame.x(rank), y, "axis")
        frame.line(edge, y, frame.x(rank), y, "axis")
        text = f"{escapes.short(label, 20)} {rank:.2f}"
        frame.text(edge + (-4 if left else 4), y + 4, text, anchor="end" if left else "start")
    return frame.svg(description, "wide")


def class_colour(label: int, num_classes: int) -> str:
    """A colour for a class that is seen on white and on black."""
    if num_classes <= 10:
        return f"var(--k{label})"
    return f"hsl({360 * label / num_classes:.0f} 65% {(46, 60)[label % 2]}%)"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers from `low` to `high`, at most so many or one more."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _said(text: str) -> Markup:
    return escape(escapes.name(text))


def _figure(value: float, percent: bool = False) -> str:
    if percent:
        return f"{value * 100:.3g}"
    for bound, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= bound:
            return f"{value / bound:.4g}{unit}"
    return f"{value:.4g}"


def _share(value: float, bounds: tuple[float, float]) -> float:
    """Where a value lies between two others, at most at one of them."""
    low, high = bounds
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _padded(values: Values, bounds: tuple[float, float]) -> tuple:
    finite = np.asarray(values, float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return (0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return (max(low - room, bounds[0]), min(high + room, bounds[1]))


def _span(values: Values, *, log: bool) -> tuple[float, float]:
    if not len(values):
        return (1.0, 10.0)
    low, high = float(np.min(values)), float(np.max(values))
    if high > low:
        return (low, high)
    return (low / 2, high * 2) if log else (low - 0.5, high + 0.5)


def _positive(one: Series) -> Series:
    """What a logarithmic axis can show."""
    kept = np.asarray(one.x, float) > 0

    def of(values: Values | None) -> np.ndarray | None:
        return None if values is None else np.asarray(values, float)[kept]

    x, y = (np.asarray(values, float)[kept] for values in (one.x, one.y))
    return one._replace(x=x, y=y, low=of(one.low), high=of(one.high))


def _path(frame: _Frame, x: Values, y: Values) -> str:
    result, pen = [], "M"
    for place, height in zip(x, y, strict=True):
        if not math.isfinite(height):
            pen = "M"
            continue
        result.append(f"{pen}{frame.x(place):.1f} {frame.y(height):.1f}")
        pen = "L"
    return "".join(result)


def _band(frame: _Frame, one: Series) -> list[str]:
    """The pieces of a band; where an edge is not known there is none."""
    assert one.low is not None and one.high is not None
    known = np.isfinite(one.low) & np.isfinite(one.high)
    edges = np.flatnonzero(np.diff(np.pad(known.astype(int), 1)))
    parts = []
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        there = [(one.x[k], one.high[k]) for k in range(first, after)]
        back = [(one.x[k], one.low[k]) for k in reversed(range(first, after))]
        content = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in there + back)
        parts.append(f'<path class="band" d="M{content}Z"/>')
    return parts


def _alone(values: np.ndarray) -> set[int]:
    """The places of values between two gaps, which no line shows."""
    gaps = np.pad(np.isnan(values), 1, constant_values=True)
    return set(np.flatnonzero(~gaps[1:-1] & gaps[:-2] & gaps[2:]).tolist())


def _dots(frame: _Frame, points: Sequence[tuple[float, float]]) -> str:
    content = "".join(f"M{frame.x(x):.1f} {frame.y(y):.1f}h0" for x, y in points)
    return f'<path class="dots" d="{content}"/>'


def _image(frame: _Frame, shares: np.ndarray, shown: np.ndarray, *, smooth: bool = False) -> str:
    """A map of `[rows, columns]` in `[0, 1]` as a picture of one pixel each, within the frame."""
    from PIL import Image

    anchors = np.array([[int(one[k : k + 2], 16) for k in (0, 2, 4)] for one in _VIRIDIS.split()])
    place = np.clip(np.nan_to_num(shares), 0, 1) * (len(anchors) - 1)
    pixels = np.stack(
        [np.interp(place, np.arange(len(anchors)), anchors[:, k]) for k in range(3)], axis=-1
    )
    opaque = np.where(shown, 255, 0)[..., None]
    file = io.BytesIO()
    Image.fromarray(np.concatenate([pixels.round(), opaque], -1).astype(np.uint8)).save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    rendering = "" if smooth else ' style="image-rendering:pixelated"'
    return (
        f'<image x="{frame.left:.1f}" y="{frame.top:.1f}" width="{frame.right - frame.left:.1f}" '
        f'height="{frame.bottom - frame.top:.1f}" preserveAspectRatio="none"{rendering} '
        f'href="data:image/png;base64,{content}"/>'
    )
