"""Sweep files with something wrong: a sweep with every field of every section, and what is done to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from conftest import Mapping
from hypothesis import strategies as st

FULL: Mapping = {
    "name": "full",
    "question": "Is every field of every section here?",
    "data": {"name": "shapes", "resolution": 8, "max_objects": 2},
    "text": {"encoder": "hash", "length": 8, "width": 32},
    "model": {"depths": [1, 2], "width_per_depth": 16, "heads": 2, "patch": 4, "mlp_ratio": 2, "qk_norm": False},
    "formulations": ["rf", {"rf/lognorm": {"m": [0, 0.5], "s": [1]}}],
    "training": {
        "steps": [40, 80],
        "batch": 8,
        "learning_rate": 0.002,
        "lr_rule": "inverse_width",
        "lr_base_width": 32,
        "warmup_steps": 3,
        "weight_decay": 0.01,
        "beta1": 0.8,
        "beta2": 0.95,
        "adam_eps": 1e-7,
        "grad_clip": 2.0,
        "ema_decay": 0.9,
        "ema_every": 2,
        "precision": "bf16",
        "text_dropout": 0.2,
        "timestep_shift": 2.0,
    },
    "seeds": [0, 1],
    "evaluation": {"images": 16, "points": 3},
    "samples": {"images": 4, "steps": 5, "guidance": 1.5},
    "resources": {
        "cpus": 2,
        "gpus": 0.5,
        "memory_gb": 3,
        "pack_gpu_gb": 80,
        "microbatch": 4,
        "retries": 1,
        "checkpoint_seconds": 30,
        "compile": True,
    },
    "quality": {
        "judges": [
            {"name": "shapes", "images": 64, "prompts": 24},
            {"name": "clip", "images": 10, "model": "./vit", "prompts": "prompts.txt"},
            {"name": "inception", "images": 12, "weights": "inception.pth"},
            {"name": "geneval", "metadata": "m.jsonl", "detector": "a/b", "clip": "c/d", "images_per_prompt": 2},
        ],
        "settings": [{"steps": 5, "guidance": 2.0}],
        "weights": ["ema", "raw"],
        "checkpoints": "all",
        "batch": 16,
    },
}
VARIANTS: tuple[Mapping, ...] = (
    FULL,
    {**FULL, "data": {"name": "glyphs", "resolution": 16, "max_letters": 3}},
    {**FULL, "data": {"name": "digits", "resolution": 8}},
    {**FULL, "data": {"name": "folder", "path": "images", "resolution": 8, "validation_fraction": 0.2}},
    {
        **FULL,
        "training": {"samples": [640], "batch": 8},
        "grids": [{}, {"training": {"samples": 1280}, "seeds": 5}, {"model": {"depths": 1}, "formulations": "v/cos"}],
    },
)

ARMED: Mapping = {
    **FULL,
    "training": {**FULL["training"], "steps": [40], "learning_rate": [0.001, 0.002], "weight_decay": [0.0, 0.1]},
    "seeds": [0],
    "arms": {
        "rf": {"formulations": "rf"},
        "rf, shift 3": {"formulations": "rf", "training": {"timestep_shift": 3, "beta1": 0.7}},
        "v": {"formulations": ["v/cos"], "model": {"qk_norm": True, "mlp_ratio": 3}},
    },
    "tune": ["training.learning_rate", "training.weight_decay"],
}
"""Named arms and tuned lists."""
MATCHED: Mapping = {
    **ARMED,
    "arms": {
        "first": {},
        "wider": {"model": {"mlp_ratio": 1, "match": "flops"}},
        "fewer": {"model": {"backbone": "dit", "match": ["parameters"], "patch": 2, "depths": [2]}},
        "by hand": {"model": {"depths": [1, 2], "widths": [20, 52]}},
    },
    "formulations": "rf",
}
"""Arms whose widths follow from those of the first, and widths written out."""
VARIANTS = (*VARIANTS, ARMED, MATCHED)

_NOTHING_AND_TRUTH = "~ null yes no on Off y true FALSE True"
_NUMBERS = """0 -0 -0.0 1 2 3 -1 1.5 1.0 1e3 2E+1 1e1 .5 5. +3 64 1e9 1e10 0600 032 09 0o600 0o17 0xFF 0b101 1_000 1:30
1:30.5 190:20:30 2024-01-31 2024-13-45 12:30:45 = \u0661\u0662 \uff11\uff12 .inf -.inf +.INF .nan nan inf 1e400 -1e400
1e-400 1e99999999999 2147483648 8388608 1000000000000 3.0000000000000001 0.30000000000000004"""
_PIECES = """'12' "0.5" [] {} [1] [[1]] [1,1] [true] [null] [[]] @x %x `x ' " [1, {a ] } ,"""
ODD = (
    *("", *_NOTHING_AND_TRUTH.split(), *_NUMBERS.split(), *_PIECES.split(), "1" + "0" * 400, "9" * 5000),
    *("{a: 1}", "{1: 2}", "{steps: 1}", "{rf: {}}", "[rf, {}]", "{rf/mode: {s: []}}", "{rf/mode: {s: [yes]}}"),
    *("!!int 3", "!!float 1", "!!str a", "! 1", "!x 1", "!!python/object/apply:os.system [a]", "!!set {a}"),
    *("&a 3", "*a", "&a [*a]", "<<", "{<<: {a: 1}}", "{<<: 1}"),
    *("'a\\0b'", '"a\\0b"', "~nosuchuser/x", "~/x", "/", ".", "..", "/dev/null", "x" * 5000, "'" + "x/" * 3000 + "'"),
    *("\u00e9", "\U0001f642", '"\\ud800"', '"\\u2028"', "|\n  text\n", ">-\n  1\n", "a b", "a: b", "a #b", "# b"),
    *("- 1", "? a", "\t", "\t1", "1\t", "rf", "rf/mode(1.9)", "paper-61", "paper61", "[rf/lognorm(0,1)]"),
    *("'rf/mode(1_0)'", "[" + ", ".join(map(str, range(1000))) + "]", "[" + "x, " * 20_000 + "x]", "[" * 3000),
)
"""Values as they are written, most of them meant as something else in YAML 1.1, or as nothing."""


class Raw(str):
    """A value as it is written in the file."""


def written(value: Any) -> str:
    """YAML in flow style: JSON, but for the raw values in it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def file_of(definition: Mapping) -> str:
    return "".join(f"{key}: {written(value)}\n" for key, value in definition.items())


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every section, list and value."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*at, key))


def replaced(value: Any, at: Sequence[str | int], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(copy[at[0]], at[1:], new)  # type: ignore[index]
    return copy


scalars = st.one_of(
    st.sampled_from(ODD),
    st.integers().map(str),
    st.integers(0, 300).map(str),
    st.floats().map(repr),
    st.floats(0, 1).map(repr),
    st.text(max_size=20),
    st.text(max_size=20).map(json.dumps),
)


@st.composite
def odd_values(draw: st.DrawFn) -> tuple[Mapping, tuple[str | int, ...], str]:
    variant = draw(st.sampled_from(VARIANTS))
    return variant, draw(st.sampled_from(list(places(variant)))), draw(scalars)


LISTED = tuple(
    (section, key)
    for section in ("data", "text", "model", "training", "evaluation")
    for key, value in ARMED[section].items()
    if (isinstance(value, int | float) and not isinstance(value, bool)) or key == "weight_decay"
)
"""Fields of one number, of which a list is an axis."""
entries = st.one_of(
    st.sampled_from(
        [text for text in ODD if text and len(text) < 40 and not set(text) & set(",[]{}\n#&*!?|>'\"%@`\t: ")]
    ),
    st.integers(1, 64).map(str),
    st.floats(0, 1).map(repr),
    st.sampled_from(["yes", "true", "'1'", "[1]", "{a: 1}", "1", "1.0", "1e0", "0.5"]),
)


@st.composite
def listed_values(draw: st.DrawFn) -> tuple[tuple[str, str], list[str]]:
    """A field and the entries of a list that stands there: few or none, equal or of several kinds."""
    return draw(st.sampled_from(LISTED)), draw(st.lists(entries, max_size=4))


LABELS = (
    "",
    " ",
    "rf",
    "v",
    "rf, shift 3",
    "1",
    "null",
    "<<",
    "*a",
    "a\nb",
    "x\u2028y",
    "\u00e9",
    "x" * 101,
    "x" * 5000,
)
TUNABLE = (
    *(
        "training.learning_rate",
        "training.beta1",
        "training.timestep_shift",
        "training.lerning_rate",
        "seeds",
        "training",
    ),
    *("model.depths", "formulations", "data.name", "arms", "", "a.b.c", "training.learning_rate ", "x" * 5000, "a\nb"),
)


@st.composite
def odd_arms(draw: st.DrawFn) -> Mapping:
    """Another arm or another label of one, and another `tune:`."""
    section, key = draw(st.sampled_from(LISTED))
    raw = draw(st.sampled_from(ODD)) if draw(st.booleans()) else f"[{', '.join(draw(st.lists(entries, max_size=3)))}]"
    arm: Any = draw(
        st.sampled_from(
            [
                {},
                Raw(raw),
                {section: {key: Raw(raw)}},
                {section: Raw(raw)},
                {"seeds": 1},
                {"name": "x"},
                {"grids": [{}]},
            ]
        )
    )
    arms = {**ARMED["arms"], draw(st.sampled_from(LABELS)): arm}
    tune: Any = draw(st.one_of(st.lists(st.sampled_from(TUNABLE), max_size=3), st.sampled_from(TUNABLE)))
    return {**ARMED, "arms": arms, **({"tune": tune} if draw(st.booleans()) else {})}


_SIGNS = "*a # : , [ ] { } ' | > % @ ? ~ 0 - . e _ \ufeff \x00 \x07 \u2028 \u00e9 \U0001f642"
TOKENS = (
    *("&a ", "<<: *a", "!!str ", "!t ", "\t", " ", "\n", ": ", "- ", "---\n", "...\n", "\r\n", '"', *_SIGNS.split(" ")),
)
INDENTS = ("  ", "\t", " ")
MARKS = st.sampled_from("[]{}:,")
Damage = Callable[[str, list[str], int, int, Any], str]
DAMAGE: tuple[Damage, ...] = (
    lambda text, lines, at, position, draw: text[:position],  # truncated
    lambda text, lines, at, position, draw: "".join([*lines[:at], lines[at], *lines[at:]]),  # a line twice
    lambda text, lines, at, position, draw: "".join([*lines[:at], *lines[at + 1 :]]),  # a line gone
    lambda text, lines, at, position, draw: "".join([*lines[:at], draw(st.sampled_from(INDENTS)), *lines[at:]]),
    lambda text, lines, at, position, draw: "".join([*lines[:at], lines[at].lstrip(), *lines[at + 1 :]]),
    lambda text, lines, at, position, draw: text[:position] + draw(st.sampled_from(TOKENS)) + text[position:],
    lambda text, lines, at, position, draw: text[:position] + text[position + 1 :],
    lambda text, lines, at, position, draw: text[:position] + draw(st.characters()) + text[position:],
    lambda text, lines, at, position, draw: re.sub(r": ", ": &a ", text, count=1) + "zz: *a\n",
    lambda text, lines, at, position, draw: "".join([*lines[:at], draw(st.sampled_from(lines)), *lines[at:]]),
    lambda text, lines, at, position, draw: text.replace(*draw(st.tuples(MARKS, MARKS))),
)


@st.composite
def damaged_texts(draw: st.DrawFn) -> bytes:
    """A file of several lines with one to three pieces of damage."""
    variant = draw(st.sampled_from(VARIANTS))
    text = block_style(variant) if draw(st.booleans()) else file_of(variant)
    for _ in range(draw(st.integers(1, 3))):
        lines = text.splitlines(keepends=True) or [""]
        at = draw(st.integers(0, len(lines) - 1))
        position = draw(st.integers(0, len(text)))
        damage = draw(st.sampled_from(DAMAGE))
        text = damage(text, lines, at, position, draw)
    content = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        content = content[:position] + draw(st.binary(max_size=4)) + content[position:]
    return content


def block_style(value: Any, indent: int = 0) -> str:
    if isinstance(value, dict) and value:
        return "".join(
            f"{' ' * indent}{key}:"
            + (f"\n{block_style(item, indent + 2)}" if isinstance(item, dict) and item else f" {written(item)}\n")
            for key, item in value.items()
        )
    return f"{' ' * indent}{written(value)}\n"
