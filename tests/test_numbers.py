"""Numbers with bounds, paths that can be none, and quotations that are cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from rfscale.backbones.mmdit.spec import MMDiTSpec
from rfscale.data import DigitsData, FolderData, GlyphsData, ShapesData
from rfscale.data.emoji import EmojiData
from rfscale.data.hf import HfData
from rfscale.data.parquet import ParquetData
from rfscale.data.text import TextSpec
from rfscale.data.webdataset import WebDatasetData
from rfscale.judges import ClipJudge, GenEvalJudge, GlyphsJudge, InceptionJudge, ShapesJudge
from rfscale.numbers import MAX_ENTRIES, Listed, Real, Whole
from rfscale.paths import PathError, expanded
from rfscale.quoting import LONGEST, cut, quoted
from rfscale.spec.sweep import Grid, Quality, Resources, Samples, Setting, Training
from rfscale.spec.trial import Evaluation, ResolvedTraining, Trial

SPECS: tuple[type[BaseModel], ...] = (
    *(MMDiTSpec.ladder(), Training, Evaluation, Samples, Quality, Setting, Resources, Grid, Trial, ResolvedTraining),
    *(MMDiTSpec, TextSpec),
    *(ShapesData, GlyphsData, DigitsData, FolderData, WebDatasetData, ParquetData, HfData, EmojiData),
    *(ShapesJudge, GlyphsJudge, ClipJudge, InceptionJudge, GenEvalJudge),
)


def numbers_in(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[type, Any]]:
    """Every number type of a field, with its bounds: (int, Whole(...)), or (int, None) where it has none."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from numbers_in(inner, (*metadata, *more))
    elif annotation in (int, float):
        yield annotation, next((m for m in metadata if isinstance(m, Whole | Real)), None)
    elif get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from numbers_in(inner)


FIELDS = [
    (f"{spec.__name__}.{name}", kind, bounds)
    for spec in SPECS
    for name, field in spec.model_fields.items()
    for kind, bounds in numbers_in(field.annotation, tuple(field.metadata))
]


def test_the_fields_are_found() -> None:
    assert {"Training.steps", "Training.weight_decay", "Grid.seeds", "Resources.retries", "ClipJudge.images"} <= {
        name for name, _, _ in FIELDS
    }
    assert len(FIELDS) > 60


@pytest.mark.parametrize(("name", "kind", "bounds"), FIELDS, ids=[name for name, _, _ in FIELDS])
def test_every_number_of_every_spec_is_strict_and_bounded(name: str, kind: type, bounds: Whole | Real | None) -> None:
    assert bounds is not None, f"{name} takes any number"
    assert isinstance(bounds, Whole if kind is int else Real)
    field = TypeAdapter(Annotated[kind, bounds])
    beyond = [bounds.high + 1, bounds.high * 2 + 1, 10**400, -(10**400), bounds.low - 1]
    for wrong in (True, False, "1", "", None, [], math.nan, math.inf, -math.inf, *beyond):
        with pytest.raises(ValidationError) as caught:
            field.validate_python(wrong)
        assert caught.value.errors()[0]["msg"] == f"it should be {bounds.allowed}"
    open_ends = isinstance(bounds, Real) and (bounds.low_open, bounds.high_open)
    for end, is_open in zip((bounds.low, bounds.high), open_ends or (False, False), strict=True):
        if not is_open:
            assert type(field.validate_python(end)) is kind


@given(st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6))
def test_a_number_is_kept_or_refused_and_never_changed(value: float) -> None:
    for kind, bounds in ((int, Whole(-100, 10**5)), (int, Whole(0, 10**6, step=8)), (float, Real(-1e3, 1e3))):
        try:
            kept = TypeAdapter(Annotated[kind, bounds]).validate_python(value)
        except ValidationError:
            continue
        assert kept == value
        assert type(kept) is kind


def test_bounds_are_said_in_words() -> None:
    assert Whole(1, 10**9).allowed == "a whole number from 1 to 1,000,000,000"
    assert Whole(16, 256, step=16).allowed == "a multiple of 16 from 16 to 256"
    assert Real(0, 1, high_open=True).allowed == "a number of at least 0 and below 1"
    assert Real(0, 0.5, low_open=True).allowed == "a number above 0 and at most 0.5"
    assert Real(1e-3, 1e3).allowed == "a number from 0.001 to 1,000"


def test_a_list_has_an_end() -> None:
    axis = TypeAdapter(Annotated[tuple[Annotated[int, Whole(0, 10**6)], ...], Listed])
    assert axis.validate_python(3) == (3,)
    assert len(axis.validate_python(list(range(MAX_ENTRIES)))) == MAX_ENTRIES
    with pytest.raises(ValidationError, match="a list of 10,001 entries; give at most 10,000"):
        axis.validate_python(list(range(MAX_ENTRIES + 1)))


# --- paths ------------------------------------------------------------------------------------------------------------


def test_a_path_is_expanded_and_need_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a b/\u00e9.png", "it") == tmp_path / "a b" / "\u00e9.png"
    assert expanded(tmp_path / "x" / "..", "it") == tmp_path / "x" / ".."
    (tmp_path / "file").touch()
    assert expanded(f"{tmp_path}/file/below", "it") == tmp_path / "file" / "below"


@pytest.mark.parametrize(
    ("given_path", "sentence"),
    [
        ("a\0b", "the place 'a\\x00b' holds a null character, which no path can; remove it"),
        ("~nosuchuser/images", "the place '~nosuchuser/images': there is no user 'nosuchuser' here; write the whole"),
        ("a\nb", "the place 'a\\nb' holds a line break or control character; rename"),
        ("a\u2028b", "holds a line break or control character"),
        ("a" * 5000, "cannot be used (File name too long); give another path"),
        ("b/" * 5000, "cannot be used (File name too long); give another path"),
        ("caf\udce9", "the place 'caf\\udce9' is not UTF-8; rename the file or folder"),
    ],
)
def test_what_can_be_no_path_is_told_in_one_line(given_path: str, sentence: str) -> None:
    with pytest.raises(PathError) as caught:
        expanded(given_path, "the place")
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300
    str(caught.value).encode()  # it can be printed


# --- quotations -------------------------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_quotation_is_one_short_line(value: Any) -> None:
    text = quoted(value)
    assert 0 < len(text) <= LONGEST
    assert len(text.splitlines()) == 1
    text.encode()


def test_quotations() -> None:
    assert quoted(True) == "true"
    assert quoted(None) == "null"
    assert quoted("a\nb") == "'a\\nb'"
    assert quoted(10**5000) == "a number of about 5001 digits"
    assert quoted([1, [2, [3, [4]]]]) == "[1, [2, [3, [...]]]]"
    assert quoted({"a": [1, 2, 3, 4, 5]}) == "{'a': [1, 2, 3, 4, ...]}"
    assert quoted(list(range(10**6))) == "[0, 1, 2, 3, ...]"
    assert cut("x" * 100, 10) == "xxxxxxx..."
