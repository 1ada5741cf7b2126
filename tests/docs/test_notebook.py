"""docs/notebook.ipynb runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def shown(cell: Any) -> set[str]:
    """The kinds of what a cell shows."""
    return {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "TMPDIR", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # the names of its sockets must be short
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    by_source = {cell.source: shown(cell) for cell in code}
    assert "image/png" in by_source["study.plot.curves()"]
    assert all("text/html" in by_source[source] for source in ("study.laws()", "study.gallery()"))
    assert any("text/html" in shown(cell) for cell in code if "rfscale.plan" in cell.source)
    streams = [output for cell in code for output in cell.outputs if output.output_type == "stream"]
    # Ray and tqdm warn of the notebook itself, on standard error.
    said = [(output.name, output.text) for output in streams if output.name == "stdout"]
    assert said == [], "a quiet run says nothing"
    assert (tmp_path / "runs" / "reports" / "notebook" / "report.html").exists()


def test_the_notebook_is_kept_without_what_a_machine_added() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.execution_count, cell.outputs) == (None, [])
