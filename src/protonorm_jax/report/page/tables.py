"""Tables of the page: one content that is shown as HTML, and saved as CSV and as LaTeX."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from protonorm_jax.report.page import escapes


class Column(NamedTuple):
    """A column.

    Attributes:
      head: what stands above it.
      numeric: whether it is set to the right and sorted by number.
      help: what it is, in a sentence.
      fields: names of the columns that it has in a CSV file; its head if left out.
      printed: whether it is in the LaTeX table.
    """

    head: str
    numeric: bool = True
    help: str = ""
    fields: tuple[str, ...] = ()
    printed: bool = True


class Cell(NamedTuple):
    """What stands in a row under a column.

    Attributes:
      text: as people read it.
      values: one for each of the column's `fields`; the first is what rows are sorted by.
      best: whether it is printed bold.
      mark: of a footnote.
      style: CSS classes.
      note: shown when pointed at.
    """

    text: str
    values: tuple[Any, ...] = ()
    best: bool = False
    mark: str = ""
    style: str = ""
    note: str = ""


class Row(NamedTuple):
    """A row.

    Attributes:
      cells: one for each column.
      style: CSS classes; `bound` for rows that are no methods.
      key: CSS class of the colour that it has in pictures, if any.
    """

    cells: Sequence[Cell]
    style: str = ""
    key: str = ""


class Table(NamedTuple):
    """A table.

    Attributes:
      name: of its files, without an ending; unique on the page.
      caption: what it shows.
      columns: of it.
      rows: of it; those whose style is `bound` stand below a rule and are not sorted.
      notes: what its marks and figures mean, in sentences.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    @property
    def csv(self) -> str:
        """The table as a CSV file, figures in full."""
        head = [field for column in self.columns for field in column.fields or (column.head,)]
        return escapes.csv_text(head, [self._values(row) for row in self.rows])

    def _values(self, row: Row) -> list[Any]:
        result: list[Any] = []
        for column, cell in zip(self.columns, row.cells, strict=True):
            width = len(column.fields) or 1
            values = cell.values or (cell.text,)
            result += [*values[:width], *[None] * (width - len(values))]
        return result

    @property
    def latex(self) -> str:
        """The table as LaTeX with booktabs, the best bold."""
        kept = [k for k, column in enumerate(self.columns) if column.printed]
        form = "".join("r" if self.columns[k].numeric else "l" for k in kept)

        def line(texts: Sequence[str]) -> str:
            return "    " + " & ".join(texts) + r" \\"

        lines = [
            r"% needs \usepackage{booktabs}; of letters beyond ASCII, \usepackage[T1]{fontenc}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{escapes.latex(' '.join([self.caption, *self.notes]))}}}",
            rf"  \begin{{tabular}}{{{form}}}",
            r"    \toprule",
            line([escapes.latex(self.columns[k].head) for k in kept]),
            r"    \midrule",
        ]
        before = ""
        for row in self.rows:
            if "bound" in row.style and "bound" not in before and lines[-1] != r"    \midrule":
                lines.append(r"    \midrule")
            before = row.style
            lines.append(line([_latex_cell(row.cells[k]) for k in kept]))
        return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}", ""])

    @property
    def csv_link(self) -> str:
        """The CSV file as an address; with a byte order mark, by which spreadsheets know UTF-8."""
        return _link("text/csv", "\ufeff" + self.csv)

    @property
    def latex_link(self) -> str:
        """The LaTeX file as an address."""
        return _link("application/x-tex", self.latex)

    @property
    def shown_csv(self) -> Markup:
        """The CSV file to be read and copied."""
        return escapes.preformatted(self.csv)

    @property
    def shown_latex(self) -> Markup:
        """The LaTeX file to be read and copied."""
        return escapes.preformatted(self.latex)


def _latex_cell(cell: Cell) -> str:
    text = escapes.latex(cell.text)
    bold = rf"\textbf{{{text}}}" if cell.best else text
    mark = rf"\textsuperscript{{{escapes.latex(cell.mark)}}}" if cell.mark else ""
    return bold + mark


def _link(kind: str, text: str) -> str:
    content = base64.b64encode(text.encode()).decode()
    return f"data:{kind};charset=utf-8;base64,{content}"


def text(value: Any, note: str = "") -> Cell:
    """A cell with a text as it is."""
    return Cell("–" if value is None else str(value), (value,), note=note)


def number(value: float | None, form: str = ",.0f", **rest: Any) -> Cell:
    """A cell with a number, or with a dash where there is none."""
    return Cell("–" if value is None else signed(format(value, form)), (value,), **rest)


def signed(figure: str) -> str:
    """A number with a true minus sign, and no sign at a zero."""
    if figure.startswith(("-", "+")) and not figure.strip("+-0.,%"):
        figure = figure[1:]
    return figure.replace("-", "−", 1) if figure.startswith("-") else figure


def percent(value: float | None, digits: int = 1, **rest: Any) -> Cell:
    """A cell with a share, shown in percent."""
    if value is None:
        return Cell("–", (None,), **rest)
    return Cell(signed(f"{value * 100:.{digits}f}"), (value,), **rest)
