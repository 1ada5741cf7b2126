"""Hooks of `mkdocs build`: pages that live elsewhere in the repository, and their links.

The README is the start page, `experiments/LOG.md` and `benchmarks/README.md` are pages; a link to
what is no page, such as a source file, is its text alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {"index.md": "README.md", "LOG.md": "experiments/LOG.md", "benchmarks.md": "benchmarks/README.md"}
"""Page of the site -> file of the repository."""
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that live elsewhere."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Every relative link, as of the file in the repository, made one of the site, or its text where it has no page."""
    source = ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda match: _linked(match, source), markdown)


def _linked(match: re.Match[str], source: str) -> str:
    text, link, anchor = match[1], match[2], match[3] or ""
    if "://" in link or link.startswith("mailto:"):
        return match[0]
    path = os.path.normpath(os.path.join(os.path.dirname(source), link))
    moved = {file: name for name, file in ELSEWHERE.items()}
    if path in moved:
        return f"[{text}]({moved[path]}{anchor})"
    if path.startswith("docs/") and Path(path).suffix in (".md", ".png", ".svg"):
        return f"[{text}]({path.removeprefix('docs/')}{anchor})"
    return text
