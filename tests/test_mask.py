"""Secrets are masked in one place: addresses in all their forms, and every error of ours by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfscale.judges.base import JudgeError
from rfscale.names import RfscaleError, mask, one_line

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://me:hunter2@host:5000/a", "http://***@host:5000/a"),
        ("http://hunter2@host", "http://***@host"),
        ("https://me:hunt/er@hunter2@host/p", "https://***@host/p"),
        ("postgresql+psycopg://me:hunter2@db.lan:5432/mlflow", "postgresql+psycopg://***@db.lan:5432/mlflow"),
        ("postgresql://db.lan/mlflow?user=me&password=hunter2", "postgresql://db.lan/mlflow?user=***&password=***"),
        ("mssql+pyodbc:///?odbc_connect=SERVER%3Da;PWD=hunter2", "mssql+pyodbc:///?odbc_connect=SERVER%3Da;PWD=***"),
        ("https://host/a?access_token=hunter2&x=1", "https://host/a?access_token=***&x=***"),
        ("url: /api/2.0/x?token=hunter2 (refused)", "url: /api/2.0/x?token=*** (refused)"),
        ('connection to "host=db password=hunter2" failed', 'connection to "host=db password=***" failed'),
        ("header value: 'Bearer hunter2\\r'", "header value: 'Bearer ***\\r'"),
        ("('http://me:hunter2@a', 'ftp://me:hunter2@b')", "('http://***@a', 'ftp://***@b')"),
        ("http://host:5000/#/experiments/1", "http://host:5000/#/experiments/1"),
        ("sqlite:////home/me@work/v?2/mlflow.db", "sqlite:////home/me@work/v?2/mlflow.db"),
        ("tokens: 20, image_tokens = 16, seed=3, a@b", "tokens: 20, image_tokens = 16, seed=3, a@b"),
    ],
)
def test_what_is_shown(given: str, shown: str) -> None:
    assert mask(given) == shown
    assert mask(shown) == shown
    assert SECRET not in shown


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=8, max_size=30))
def test_the_login_of_the_address_in_use_is_masked_whatever_letters_it_has(password: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://me:{password}@host/x")
        assert mask(f"cannot reach 'http://me:{password}@host/x'!") == "cannot reach 'http://***@host/x'!"


def test_every_error_of_ours_is_shown_masked() -> None:
    for kind in (RfscaleError, JudgeError):
        assert str(kind("no answer from http://me:hunter2@host")) == "no answer from http://***@host"


def test_a_quoted_error_is_masked_before_it_is_cut() -> None:
    assert one_line("http://me:hunter2@host\n refused", 12) == "http://***@h"
