"""Results as a notebook shows them: sentences as paragraphs, tables as tables."""

from __future__ import annotations

import html

import pandas as pd


def shown(*parts: str | pd.DataFrame) -> str:
    """HTML of the parts, in their order; text is escaped, numbers have four digits, and empty parts are left out."""
    return "\n".join(_shown(part) for part in parts if len(part))


def _shown(part: str | pd.DataFrame) -> str:
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    return str(part.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}"))
