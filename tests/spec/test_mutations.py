"""Mutated sweep files: each is accepted with what was written, or refused in one sentence, and none hangs.

Two kinds: one value of one field replaced by an odd one, where the meaning of the odd one is computed here by other
means (exact fractions, by the tables of YAML 1.2), and damage to the text, where what was accepted is written again.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import Mapping, files_in
from hypothesis import HealthCheck, given, settings
from mutations import (
    ARMED,
    FULL,
    ODD,
    VARIANTS,
    Raw,
    block_style,
    damaged_texts,
    file_of,
    listed_values,
    odd_arms,
    odd_values,
    places,
    replaced,
)
from PIL import Image

from rfscale.spec.sweep import Sweep, SweepError
from rfscale.spec.sweep_file import load_sweep, read_mapping

HANGS = 60.0  # seconds of CPU for one file; the longest list of trials takes one or two
LONGEST = 600
FEW, MANY = 400, 3000

# --- what a number means, by other means than the code under test -----------------------------------------------------

DECIMAL = re.compile(r"([-+]?)([0-9]*)\.?([0-9]*)(?:[eE]([-+]?[0-9]{1,4}))?")


def meaning(text: str) -> Fraction | None:
    """The exact value of a plain scalar by the core schema of YAML 1.2, None for what is no finite number."""
    if re.fullmatch(r"0o[0-7]+", text):
        return Fraction(int(text[2:], 8))
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return Fraction(int(text[2:], 16))
    match = DECIMAL.fullmatch(text)
    if match is None or not text.isascii() or not match[2] + match[3] or len(text) > 1000:
        return None
    digits = Fraction(int(match[2] + match[3]), 10 ** len(match[3]))
    return digits * Fraction(10) ** int(match[4] or 0) * (-1 if match[1] == "-" else 1)


FIELDS: dict[tuple[str, str], Callable[[Mapping], Any]] = {
    ("model", "depths"): lambda trial: trial["depth"],
    ("model", "widths"): lambda trial: trial["width"],
    ("model", "width_per_depth"): lambda trial: trial["width"] / trial["depth"],
}


def flat(value: Mapping) -> Mapping:
    """{last part of the key: value} of a nested record of one trial."""
    found: Mapping = {}
    for key, item in value.items():
        found |= {f"{key}.{k}": v for k, v in flat(item).items()} if isinstance(item, dict) else {key: item}
    return found


def accepted_value(sweep: Sweep, section: str, field: str) -> set[float]:
    """The values that a field has in what was accepted."""
    for whole in ("samples", "resources"):
        if section == whole:
            return {getattr(getattr(sweep, whole), field)}
    found = set()
    for trial in sweep.trials:
        record = {key.split(".")[-1]: v for key, v in flat(trial.model_dump()).items() if key.count(".") < 2}
        record |= (
            {f"{section}.{k}": v for k, v in trial.model_dump().get(section, {}).items()}
            if section
            in (
                "data",
                "text",
                "evaluation",
            )
            else {}
        )
        getter = FIELDS.get((section, field))
        found.add(getter(record) if getter else record.get(f"{section}.{field}", record.get(field)))
    return found


COMPARED = {
    *(("model", key) for key in ("depths", "width_per_depth", "widths", "heads", "patch", "mlp_ratio")),
    *(
        ("training", key)
        for key in ("steps", "batch", "warmup_steps", "weight_decay", "beta1", "beta2", "adam_eps", "grad_clip")
    ),
    *(("training", key) for key in ("ema_decay", "ema_every", "text_dropout", "timestep_shift")),
    *(("evaluation", key) for key in ("images", "points")),
    *(("data", key) for key in ("resolution", "max_objects", "max_letters", "validation_fraction")),
    *(("text", key) for key in ("length", "width")),
    *(("samples", key) for key in ("images", "steps", "guidance")),
    *(("resources", key) for key in ("cpus", "gpus", "memory_gb", "pack_gpu_gb", "microbatch", "retries")),
    ("resources", "checkpoint_seconds"),
}


def check_the_value_is_what_was_written(sweep: Sweep, at: tuple[str | int, ...], text: str, variant: Mapping) -> None:
    if at[0] == "arms":
        at = at[2:]
    if len(at) < 2 or (at[0], at[1]) not in COMPARED or "grids" in variant:
        return
    if text.startswith("[") or (len(at) > 2 and not text.strip()):  # a list, or a comma before its end
        return
    meant = meaning(text.removeprefix("&a ").strip())
    assert meant is not None, f"{at}: {text!r} is no number, and was accepted"
    values = accepted_value(sweep, str(at[0]), str(at[1]))
    assert any(Fraction(value) == Fraction(float(meant)) for value in values), f"{at}: {text!r} became {values}"


# --- the checks -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the sweep file, with images beside it."""
    folder = tmp_path_factory.mktemp("mutations")
    images = folder / "images"
    images.mkdir()
    lines = []
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(images / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"number {i}"}))
    (images / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def read(folder: Path, content: bytes) -> Sweep | str:
    """The sweep, or the sentence; all that `plan` derives of every trial is derived."""
    path = folder / "sweep.yaml"
    path.write_bytes(content)
    begin = time.process_time()
    try:
        sweep = load_sweep(path)
        for trial in sweep.trials:
            assert all(math.isfinite(v) for v in trial.parameters().values() if isinstance(v, int | float))
        found: Sweep | str = sweep
    except SweepError as error:
        found = str(error).replace(str(path), "sweep.yaml").replace(str(folder), ".")
    assert time.process_time() - begin < HANGS, "it grows faster than the file does"
    return found


def check_one_sentence(sentence: str) -> None:
    assert len(sentence.splitlines()) == 1, sentence
    assert len(sentence) < LONGEST, sentence
    assert "Input" not in sentence
    assert "Traceback" not in sentence
    sentence.encode()


def check_round_trip(folder: Path, sweep: Sweep) -> None:
    """JSON is YAML 1.2: what was accepted, written as JSON, is accepted again and means the same."""
    again = folder / "again.yaml"
    text = json.dumps(read_mapping(folder / "sweep.yaml"), ensure_ascii=False, allow_nan=False)
    again.write_text(re.sub("[\x7f-\x9f\ufeff\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}", text), encoding="utf-8")
    assert load_sweep(again) == sweep
    assert [trial.trial_id for trial in load_sweep(again).trials] == [trial.trial_id for trial in sweep.trials]


def check_odd_value(folder: Path, case: tuple[Mapping, tuple[str | int, ...], str]) -> None:
    variant, at, text = case
    content = file_of(replaced(variant, at, Raw(text)))
    found = read(folder, content.encode("utf-8", "surrogatepass"))
    if isinstance(found, Sweep):
        check_round_trip(folder, found)
        check_the_value_is_what_was_written(found, at, text, variant)
        return
    check_one_sentence(found)
    keys = [part for part in at if isinstance(part, str)]
    # A value may break the file before it is a value, and then its line is named; or not fit another key's.
    assert (
        "cannot be read as YAML" in found
        or "unknown key" in found
        or any(re.search(rf"\b{re.escape(part)}\b|{SYNONYMS.get(part, part)}", found) for part in keys)
    ), f"{at} = {text!r}: {found}"


# What a sentence calls a field that is only wrong beside others.
SYNONYMS = {
    "depths": "model shape|width|heads|trials",
    "width_per_depth": "model shape|width",
    "patch": "model shape",
    "resolution": "model shape",
    "formulations": "formulation|preset|grid of",
    "batch": "samples for each",
    "steps": "samples for each|budgets|warmup_steps",
    "samples": "steps|budgets",
    "m": "rf/lognorm",
    "s": "rf/lognorm|rf/mode",
    "path": "folder",
    "learning_rate": "rate",
    "lr_base_width": "rate",
    "seeds": "seed",
}


OTHERS = "warmup_steps|yaml: arms|read as YAML"  # named where a list breaks the file, or does not fit another key's


def check_damaged_text(folder: Path, content: bytes) -> None:
    found = read(folder, content)
    if isinstance(found, Sweep):
        check_round_trip(folder, found)
    else:
        check_one_sentence(found)


def check_list(folder: Path, case: tuple[tuple[str, str], list[str]]) -> None:
    """Every entry is a value of the grid, and the grid has no other."""
    at, entries = case
    found = read(folder, file_of(replaced(ARMED, at, Raw(f"[{', '.join(entries)}]"))).encode())
    if not isinstance(found, Sweep):
        check_one_sentence(found)
        assert at[1] in found or re.search(f"{SYNONYMS.get(at[1], at[1])}|{OTHERS}", found), f"{at}: {entries}: {found}"
        return
    check_round_trip(folder, found)
    if at in COMPARED:
        meant = {meaning(entry) for entry in entries}
        assert None not in meant, f"{at}: {entries} was accepted"
        arms = ARMED["arms"].values()
        elsewhere = {Fraction(str(arm[at[0]][at[1]])) for arm in arms if at[1] in arm.get(at[0], {})}
        values = {Fraction(value) for value in accepted_value(found, *at)}
        assert values == {Fraction(float(value)) for value in meant | elsewhere if value is not None}


def check_arms(folder: Path, definition: Mapping) -> None:
    found = read(folder, file_of(definition).encode("utf-8", "surrogatepass"))
    if not isinstance(found, Sweep):
        check_one_sentence(found)
        return
    check_round_trip(folder, found)
    assert all(any(arm == label or arm.startswith(f"{label}, ") for arm in found.arms) for label in definition["arms"])
    assert all(arm.isprintable() for arm in found.arms)
    tune = [definition["tune"]] if isinstance(definition["tune"], str) else definition["tune"]
    assert {axis.field for axis in found.layout.of("tuned")} == set(tune)


def mutated(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@mutated(FEW // 4)
@given(case=odd_values())
def test_an_odd_value_is_what_was_written_or_one_sentence(folder: Path, case: Any) -> None:
    check_odd_value(folder, case)


@mutated(FEW // 4)
@given(content=damaged_texts())
def test_a_damaged_file_means_what_it_says_or_is_one_sentence(folder: Path, content: bytes) -> None:
    check_damaged_text(folder, content)


@mutated(FEW // 4)
@given(case=listed_values())
def test_a_list_is_an_axis_of_what_was_written_or_one_sentence(folder: Path, case: Any) -> None:
    check_list(folder, case)


@mutated(FEW // 4)
@given(definition=odd_arms())
def test_arms_and_tune_are_what_was_written_or_one_sentence(folder: Path, definition: Mapping) -> None:
    check_arms(folder, definition)


@pytest.mark.slow
@mutated(MANY // 4)
@given(case=listed_values())
def test_many_lists(folder: Path, case: Any) -> None:
    check_list(folder, case)


@pytest.mark.slow
@mutated(MANY // 4)
@given(definition=odd_arms())
def test_many_arms_and_tuned_fields(folder: Path, definition: Mapping) -> None:
    check_arms(folder, definition)


@pytest.mark.slow
@mutated(MANY // 4)
@given(case=odd_values())
def test_many_odd_values(folder: Path, case: Any) -> None:
    check_odd_value(folder, case)


@pytest.mark.slow
@mutated(MANY // 4)
@given(content=damaged_texts())
def test_many_damaged_files(folder: Path, content: bytes) -> None:
    check_damaged_text(folder, content)


def test_every_variant_is_a_sweep(folder: Path) -> None:
    for variant in VARIANTS:
        for text in (file_of(variant), block_style(variant)):
            assert isinstance(read(folder, text.encode()), Sweep)


@pytest.mark.slow
def test_every_odd_value_at_every_place(folder: Path) -> None:
    for at in places(FULL):
        for text in ODD:
            check_odd_value(folder, (FULL, at, text))


NASTY = {
    "a bomb": "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 10)}]\n" for i in range(9)),
    "a long list of brackets": "[" * 100_000,
    "a grid of a million": file_of(
        {**FULL, "training": {"steps": list(range(100, 1100)), "batch": 8}, "seeds": list(range(1000))}
    ),
    "a grid of a million by axes": file_of(
        {
            **FULL,
            "training": {**FULL["training"], "learning_rate": [i / 2000 for i in range(1, 1001)]},
            "text": {"length": 8, "width": list(range(8, 1008))},
        }
    ),
    "an arm of 5,000 letters": file_of({**FULL, "arms": {"x" * 5000: {"seeds": 1}}}),
    "a tuned name of 5,000 letters": file_of({**FULL, "tune": "x" * 5000}),
    "a depth of 401 digits": file_of(replaced(FULL, ("model", "depths"), Raw("1" + "0" * 400))),
    "an endless weight decay": file_of(replaced(FULL, ("training", "weight_decay"), Raw(".inf"))),
    "a null character in a path": file_of(replaced(VARIANTS[3], ("data", "path"), Raw('"a\\0b"'))),
    "a path of 5,000 letters": file_of(replaced(VARIANTS[3], ("data", "path"), "x" * 5000)),
    "half a character": file_of(replaced(VARIANTS[3], ("data", "path"), Raw('"\\ud800"'))),
    "a name with a line break": file_of(replaced(FULL, ("name",), "a\nb")),
    "twenty million points": file_of(replaced(FULL, ("evaluation", "points"), 20_000_000)),
}


@pytest.mark.parametrize("case", NASTY)
def test_the_command_refuses_in_one_sentence_and_writes_nothing(case: str, rfscale: Any, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    path = tmp_path / "sweep.yaml"
    path.write_text(NASTY[case])
    before = files_in(tmp_path)
    done = rfscale("run", path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    check_one_sentence(done.stderr.removesuffix("\n").replace(str(tmp_path), "."))
    assert files_in(tmp_path) == before
