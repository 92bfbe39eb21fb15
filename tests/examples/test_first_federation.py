"""The example runs from its first cell to its last, and says nothing that it should not."""

import pathlib

import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent.parent / "examples"
BOOK = FOLDER / "first_federation.ipynb"


def test_it_is_kept_without_outputs():
    book = nbformat.read(BOOK, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.large
@pytest.mark.timeout(900)
def test_it_runs(tmp_path):
    book = nbformat.read(BOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=600, resources=where).execute()
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    streams = [one for cell in cells for one in cell.outputs if one.output_type == "stream"]
    assert [one.text for one in streams if one.name == "stderr"] == []
    (angle,) = (cell.outputs[0].data for cell in cells if "thomson.align" in cell.source)
    assert abs(float(angle["text/plain"]) - 63.435) < 0.01
    assert not any(tmp_path.iterdir())
