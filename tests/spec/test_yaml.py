"""Strict YAML: what a scalar means by YAML 1.2, merges as `safe_load` has them, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import load_sweep
from rfscale.spec.yaml import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, MAX_VALUES, YamlError, parse, read_text

# The core schema of YAML 1.2.2, section 10.3.2: each spelling and its value.
SCALARS: dict[str, Any] = {
    "": None,
    "~": None,
    "null": None,
    "NULL": None,
    "true": True,
    "False": False,
    "12": 12,
    "-12": -12,
    "+12": 12,
    "0600": 600,
    "032": 32,
    "09": 9,
    "0o600": 384,
    "0xFf": 255,
    "0.5": 0.5,
    ".5": 0.5,
    "12.": 12.0,
    "2e-3": 2e-3,
    "2E+3": 2000.0,
    "-1.5e3": -1500.0,
    "0e-400": 0.0,
    ".inf": math.inf,
    "-.Inf": -math.inf,
    "+.INF": math.inf,
    # what YAML 1.1 reads as something else
    "yes": "yes",
    "No": "No",
    "on": "on",
    "off": "off",
    "y": "y",
    "1:30": "1:30",
    "1:30.5": "1:30.5",
    "190:20:30": "190:20:30",
    "1_000": "1_000",
    "0b101": "0b101",
    "2024-01-31": "2024-01-31",
    "2024-13-45": "2024-13-45",
    "=": "=",
    # and what is a number in neither
    "1e": "1e",
    "e3": "e3",
    "-0o7": "-0o7",
    "0x": "0x",
    "nan": "nan",
    "inf": "inf",
    "tRUE": "tRUE",
    "\u0663": "\u0663",
    "'12'": "12",
    '"true"': "true",
    "|-\n  12": "12",
}


@pytest.mark.parametrize("text", SCALARS)
def test_a_scalar_means_what_yaml_1_2_says(text: str) -> None:
    value = parse(f"key: {text}\n")["key"]
    assert (value, type(value)) == (SCALARS[text], type(SCALARS[text]))


def test_nan_is_a_number() -> None:
    assert all(math.isnan(value) for value in parse("[.nan, .NaN, .NAN]"))


MERGES = {
    "own keys win": "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n",
    "own keys win wherever << stands": "a: &a {x: 1, y: 2}\nb: {x: 3, <<: *a}\n",
    "the first of a list wins": "a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b], z: 4}\n",
    "the later of two wins": "a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: *a, <<: *b}\n",
    "a merge of a merge": "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, x: 5}\n",
    "in block style": "a: &a\n  x: 1\n  y: [1, 2]\nb:\n  <<: *a\n  y: 3\n",
    "a mapping written there": "b: {<<: {x: 1}, y: 2}\n",
    "an empty list": "b: {<<: [], y: 2}\n",
    "aliases of lists and text": "a: &a [1, 2]\nb: *a\nc: &c text\nd: [*c, *a]\n",
}


@pytest.mark.parametrize("case", MERGES)
def test_merges_and_aliases_are_those_of_safe_load(case: str) -> None:
    assert parse(MERGES[case]) == yaml.safe_load(MERGES[case])


def test_a_quoted_merge_key_is_text() -> None:
    assert parse("a: {'<<': 1}") == {"a": {"<<": 1}}


def bomb(levels: int, width: int = 10) -> str:
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


REFUSED = {
    "a merge of text": ("a: {<<: text}", "line 1: << merges mappings; 'text' is not a mapping"),
    "a merge of a list of text": ("a: {<<: [text]}", "<< merges mappings; 'text' is not a mapping"),
    "a tag": ("a: !!int 3", "line 1: the tag '!!int' is not allowed, only plain values are; remove it"),
    "the tag that says nothing": ("a: ! 3", "the tag '!' is not allowed"),
    "a tag of a list": ("a: !!set [x]", "the tag '!!set' is not allowed"),
    "a tag of a mapping": ("a: !!omap {x: 1}", "the tag '!!omap' is not allowed"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
    "a key twice in two spellings": ("a: 1\n'a': 3", "line 2: the key 'a' stands twice"),
    "a number as key": ("600: 1", "line 1: the key 600 is not text"),
    "nothing as key": ("~: 1", "the key null is not text"),
    "a list as key": ("{[1, 2]: 1}", "the key [1, 2] is not text"),
    "an anchor twice": ("a: &x 1\nb: &x 2", "line 2: the anchor 'x' stands twice"),
    "an alias of nothing": ("a: *x", "the alias 'x' has no anchor before it"),
    "an alias of itself": ("a: &x [1, *x]", "the alias 'x' stands inside what it names"),
    "a merge of itself": ("a: &x {<<: *x}", "the alias 'x' stands inside what it names"),
    "two documents": ("a: 1\n---\nb: 2", "line 2: a second document begins here (---); write one sweep per file"),
    "a bomb": (bomb(9), f"line 5: with every alias written out it has more than {MAX_VALUES:,} values; split it"),
    "a bomb of merges": (
        "a0: &a0 {" + ", ".join(f"k{i}: {i}" for i in range(1000)) + "}\nb: [" + ", ".join(["{<<: *a0}"] * 1000) + "]",
        f"with every alias written out it has more than {MAX_VALUES:,} values",
    ),
    "many values": (f"[{'1,' * MAX_VALUES}1]"[:MAX_BYTES] + "]", "has more than"),
    "deep": ("[" * (MAX_DEPTH + 2), f"it is nested too deeply; {MAX_DEPTH} levels are allowed"),
    "very deep": ("{a: " * 30_000, "it is nested too deeply"),
    "many digits": ("a: " + "9" * (MAX_DIGITS + 1), f"line 1: a number of {MAX_DIGITS + 1:,} digits"),
    "more than a number can hold": ("a: 1e400", "line 1: 1e400 is too large for a number"),
    "less than a number can hold": ("a: -1e-400", "line 1: -1e-400 is too small for a number"),
    "a tab": ("a:\n\tb: 1", "line 2: "),
    "a bracket that stays open": ("a: [1,\n", "line 2: "),
    "a character that is none": ("a: \x07", "control characters are not allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_told_in_one_line_with_its_place(case: str) -> None:
    text, sentence = REFUSED[case]
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_bomb_below_the_cap_is_read() -> None:
    assert parse(bomb(3))["a2"][9][9] == ["x"] * 10


def test_what_is_read_is_bounded_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("#" * MAX_BYTES)
    assert parse(read_text(path)) is None
    path.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(YamlError, match=r"it is larger than 200,000 bytes, which no sweep file need be; split it"):
        read_text(path)
    with pytest.raises(YamlError, match="larger than"):
        read_text("/dev/zero")


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert parse(read_text(tmp_path / "bom.yaml")) == {"a": 1}


SWEEP = """\
name: merge
question: Do two budgets give the same order?
data: {name: shapes, resolution: 8}
model: {depths: [1, 2], width_per_depth: 16, patch: 4}
formulations: [rf]
training: &short {steps: 6, batch: 8, learning_rate: 2e-3}
evaluation: {images: 8, points: 2}
grids:
  - training: {<<: *short, steps: 6}
  - training: {<<: *short, steps: 12}
"""


def test_a_sweep_may_merge(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(SWEEP)
    assert [(t.model.depth, t.training.steps, t.training.batch) for t in load_sweep(path).trials] == [
        (1, 6, 8),
        (2, 6, 8),
        (1, 12, 8),
        (2, 12, 8),
    ]


@pytest.mark.parametrize(("spelling", "steps"), [("0600", 600), ("032", 32), ("0o17", 15), ("0x10", 16), ("6e2", 600)])
def test_a_number_of_a_sweep_is_what_yaml_1_2_says(spelling: str, steps: int, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("steps: 12", f"steps: {spelling}"))
    assert load_sweep(path).trials[-1].training.steps == steps


@pytest.mark.parametrize("spelling", ["1:30", "yes", "on", "true", "1_000", "'12'", "12.5", ".nan", ".inf", "0", "-3"])
def test_what_is_no_number_of_steps_is_refused(spelling: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.replace("steps: 12", f"steps: {spelling}"))
    with pytest.raises(SweepError, match=r"training.steps.0 = .*: it should be a whole number from 1 to 1,000,000,000"):
        load_sweep(path)
