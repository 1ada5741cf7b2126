"""The documentation builds into a site without a warning, every page is in its contents, and the citation is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_the_site_builds_without_a_warning_and_loads_nothing_of_others(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "fonts.googleapis" not in text, page
        assert "cdn." not in text, page
    assert "which training formulation is better" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_every_page_is_in_the_contents() -> None:
    contents = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = {page for entry in contents for page in entry.values()}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= listed


def test_the_citation_names_this_version() -> None:
    import rfscale

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license", "type"} <= set(cited)
    assert cited["version"] == rfscale.__version__
    assert all("name" in author or "family-names" in author for author in cited["authors"])
