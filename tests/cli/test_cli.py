"""The command: what it prints, what it tells a wrong input, and that it leaves no file behind when it refuses."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import environment_in, files_in
from PIL import Image
from synthetic_sweep import World, world_trials
from synthetic_sweep import write_sweep as write_fake_sweep
from typer.testing import CliRunner, Result

from rfscale import __version__, names
from rfscale.backbones.base import BACKBONES
from rfscale.cli import app
from rfscale.spec.sweep import Samples
from rfscale.spec.sweep_file import load_sweep, parse_sweep
from rfscale.spec.trial import Trial
from rfscale.store import Store, write_json
from rfscale.train.loop import train
from rfscale.validation import samples

Mapping = dict[str, Any]
WriteSweep = Callable[[Mapping | str], Path]
Rfscale = Callable[..., subprocess.CompletedProcess[str]]

COMMANDS = ("plan", "formulations", "backbones", "run", "train", "status", "report", "compare", "sample", "ui")


def invoke(*arguments: str | Path) -> Result:
    """The command in this process, for what does not depend on how it was started."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_in_one_uncut_line(rfscale: Rfscale) -> None:
    done = rfscale("--help", COLUMNS="80")
    assert done.returncode == 0
    listed = re.findall(r"^  ([a-z-]+) {2,}(\S.*)$", done.stdout.split("Commands:")[1], flags=re.MULTILINE)
    assert set(COMMANDS) <= {name for name, _ in listed}
    for name, line in listed:
        assert "..." not in line, f"the line of {name} is cut off: {line}"
        assert line.endswith("."), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = invoke(command, "--help")
    assert done.exit_code == 0
    usage, *text = done.stdout.strip().splitlines()
    assert f" {command} " in usage
    assert text[1].strip().endswith("."), "a sentence says what it does"
    for line in done.stdout.splitlines():
        if line.startswith("  --"):
            assert re.match(r"  --[a-z-]+(, --[a-z-]+)*( <[a-z\[\] ]+>)?  +\S", line), f"not explained: {line}"


def test_version_and_no_arguments() -> None:
    assert invoke("--version").stdout == f"{__version__}\n"
    assert "Commands:" in invoke().output


# --- plan -------------------------------------------------------------------------------------------------------------

PLAN_KEYS = {
    *("trial_id", "formulation", "depth", "width", "heads", "parameters", "train_flops"),
    *("steps", "batch", "seed", "status", "reason"),
}


def test_plan_writes_nothing(tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path) -> None:
    path = write_sweep(tiny)
    before = files_in(tmp_path)
    for options in ([], ["--json"]):
        done = rfscale("plan", path, *options)
        assert (done.returncode, done.stderr) == (0, "")
    assert files_in(tmp_path) == before


def test_plan_says_what_may_not_be_meant(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    path = write_sweep({**tiny, "seeds": 3, "data": {"name": "digits", "resolution": 8}, "evaluation": {"images": 300}})
    path.write_text(path.read_text().replace("steps: 30", "steps: 400"))
    done = invoke("plan", path, "--store", tmp_path / "s")
    notes = [line.removeprefix("note: ") for line in done.stdout.splitlines() if line.startswith("note: ")]
    assert notes == [
        "seeds: 3 is one seed, whose number is 3; for 3 seeds write seeds: [0, 1, 2]",
        "evaluation asks for 300 held-out images and data `digits` has 256: val/loss is measured on those",
        "400 steps of 8 images go 2.1 times over the 1,541 training images of data `digits`",
    ]
    assert json.loads(invoke("plan", path, "--json", "--store", tmp_path / "s").stdout)["notes"] == notes


LOADED = """
import sys
from typer.testing import CliRunner
from rfscale.cli import app
file = sys.argv[1]
for arguments in (["--help"], ["plan", file], ["plan", file, "--json"], ["formulations"], ["status", file]):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
heavy = {"torch", "ray", "mlflow", "pandas", "matplotlib", "scipy", "sklearn", "safetensors"}
print(sorted({name.split(".")[0] for name in sys.modules} & heavy))
"""


def test_plan_help_and_status_load_nothing_heavy(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(write_sweep({**tiny, "formulations": "paper-61"}))],
        cwd=tmp_path,
        env=environment_in(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_plan_json(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    path = write_sweep({**tiny, "formulations": ["rf", "eps/linear", "rf"], "seeds": [0, 1]})
    done = invoke("plan", path, "--json", "--store", tmp_path / "s")
    assert done.exit_code == 0
    given = json.loads(done.stdout)
    assert (given["sweep"], given["question"]) == ("tiny", "Does it train?")
    trials = load_sweep(path).trials
    for row, trial in zip(given["trials"], trials, strict=True):
        assert row.keys() >= PLAN_KEYS
        assert row["trial_id"] == trial.trial_id
        assert (row["status"], row["reason"]) == (names.NEW, "")
        assert {key: row[key] for key in trial.parameters()} == trial.parameters()
    totals = given["totals"]
    assert (totals["trials"], totals["duplicates_merged"], totals["new"], totals["finished"]) == (4, 2, 4, 0)
    assert totals["train_flops"] == sum(row["train_flops"] for row in given["trials"])


def test_plan_and_status_say_where_each_trial_stands(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    path = write_sweep({**tiny, "seeds": [0, 1, 2, 3, 4, 5]})
    store = Store(tmp_path / "s")
    _, partial, diverged, failed, finished, running = (store.trial(t.trial_id) for t in load_sweep(path).trials)
    for folder in (partial, diverged, failed, finished, running):
        folder.path.mkdir(parents=True)
        write_json(folder.record, {})
    ended = {"step": 30, "metrics": {names.VAL_LOSS: 0.25}, "files": {}}
    write_json(diverged.result, {**ended, "status": names.DIVERGED, "reason": "the training loss is nan by step 3"})
    write_json(failed.result, {**ended, "status": names.FAILED, "reason": "OSError: disk full"})
    write_json(finished.result, {**ended, "status": names.FINISHED, "reason": ""})

    def rows(command: str) -> list[tuple[str, str]]:
        given = json.loads(invoke(command, path, "--json", "--store", store.root).stdout)
        assert sum(number for status, number in given["totals"].items() if status in names.STATUSES) == 6
        return [(row["status"], row["reason"]) for row in given["trials"]]

    resumes = "stopped before its end; it has no checkpoint"
    with running.claim():
        assert rows("plan") == [
            ("new", ""),
            ("partial", resumes),
            ("dropped", "diverged: the training loss is nan by step 3"),
            ("partial", "failed: OSError: disk full"),
            ("finished", ""),
            ("partial", "a process is training it now"),
        ]
        assert rows("status") == [
            ("new", ""),
            ("partial", resumes),
            ("diverged", "the training loss is nan by step 3"),
            ("failed", "OSError: disk full"),
            ("finished", ""),
            ("running", ""),
        ]
        given = json.loads(invoke("status", path, "--json", "--store", store.root).stdout)
        assert given["trials"][0]["loss"] is None, "a missing number is null, not NaN, which is no JSON"
        assert given["trials"][4]["loss"] == 0.25
        assert "1 new, 3 partial, 1 finished, 1 dropped" in invoke("plan", path, "--store", store.root).stdout
        assert "1 new, 1 running, 1 partial, 1 finished, 1 diverged, 1 failed" in (
            invoke("status", path, "--store", store.root).stdout
        )


def test_tables_are_not_cut_to_a_narrow_terminal(tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale) -> None:
    path = write_sweep({**tiny, "question": "Is [bold]this[/bold] kept?"})
    (trial,) = load_sweep(path).trials
    done = rfscale("plan", path, COLUMNS="40")
    assert "Is [bold]this[/bold] kept?" in done.stdout
    header, row = (line.split("  ") for line in done.stdout.splitlines()[2:4])
    assert header[0].strip() == "trial id"
    assert row[0] == trial.trial_id
    assert "…" not in done.stdout


def test_formulations_are_listed_with_their_ranges() -> None:
    rows = {row["name"]: row for row in json.loads(invoke("formulations", "--json").stdout)}
    assert rows["rf/mode(s)"]["parameters"] == {"s": "[-1, 1.75194]"}
    assert rows["edm(P_m,P_s)"]["parameters"] == {"P_m": "[-100, 100]", "P_s": "(0, 100]"}
    text = invoke("formulations").stdout
    for row in rows.values():
        assert row["source"]
        assert all(str(row[key]) in text for key in ("name", "path", "target", "noise_sampler", "source"))


def test_backbones_are_listed_with_formulas_and_sources_on_a_narrow_terminal() -> None:
    found = json.loads(invoke("backbones", "--json").stdout)
    assert [row["name"] for row in found["backbones"]] == BACKBONES.names()
    text = invoke("backbones").stdout
    assert max(map(len, text.splitlines())) <= 80
    joined = " ".join(text.split())
    for row in found["backbones"]:
        assert set(row) == {"name", "what", "equation", "block_flops", "block_parameters", "source"}
        assert all(" ".join(said.split()) in joined for said in row.values())
    assert all(meaning in joined for meaning in found["symbols"].values())


# --- the store --------------------------------------------------------------------------------------------------------


def test_which_store(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(tiny)
    (trial,) = load_sweep(path).trials
    monkeypatch.chdir(tmp_path)

    def finished_in(*arguments: str) -> bool:
        return bool(json.loads(invoke("plan", path, "--json", *arguments).stdout)["totals"]["finished"])

    for place in ("runs", "by-variable", "by-option"):
        assert not finished_in("--store", place)
        folder = Store(tmp_path / place).trial(trial.trial_id)
        folder.path.mkdir(parents=True)
        write_json(
            folder.result,
            {"status": names.FINISHED, "step": 30, "reason": "", "metrics": {names.VAL_LOSS: 1.0}, "files": {}},
        )
    assert finished_in()
    monkeypatch.setenv("RFSCALE_STORE", "empty")
    assert not finished_in()
    monkeypatch.setenv("RFSCALE_STORE", "by-variable")
    assert finished_in()
    assert not finished_in("--store", "empty"), "the option wins over the variable"
    assert finished_in("--store", "by-option")


# --- one trained trial ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trial]:
    """A store that holds one finished trial."""
    definition = {
        "name": "one",
        "question": "?",
        "data": {"name": "digits"},
        "model": {"depths": [1], "width_per_depth": 16, "patch": 4},
        "formulations": ["rf"],
        "training": {"steps": 4, "batch": 8},
        "evaluation": {"images": 8, "points": 2},
    }
    (trial,) = parse_sweep(definition).trials
    root = tmp_path_factory.mktemp("trained")
    train(trial, Store(root).trial(trial.trial_id), samples=Samples(images=0))
    return root, trial


def test_sample_makes_a_picture(trained: tuple[Path, Trial], tmp_path: Path) -> None:
    root, trial = trained
    pictures = {}
    for name, options in {
        "a": ["--prompt", "a three", "--prompt", "a seven", "--count", "3"],
        "b": ["--prompt", "a three", "--prompt", "a seven", "--count", "3"],
        "seed": ["--prompt", "a three", "--prompt", "a seven", "--count", "3", "--seed", "1"],
        "raw": ["--prompt", "a three", "--prompt", "a seven", "--count", "3", "--raw"],
        "one": ["--prompt", "a three", "--count", "1", "--guidance", "1"],
        "square": ["--prompt", "a three", "--count", "1", "--guidance", "1", "--size", "8x8", "--shift", "1"],
        "wide": ["--prompt", "a three", "--count", "1", "--guidance", "1", "--size", "4x12"],
    }.items():
        out = tmp_path / f"{name}.png"
        done = invoke("sample", trial.trial_id[:7], "--store", root, "--steps", "2", "--out", out, *options)
        assert done.exit_code == 0, done.output
        assert str(out) in done.stdout
        pictures[name] = Image.open(out)
    # 160 pixels for each image and 44 for its text, 8 between: 6 images in 4 columns and 2 rows
    assert pictures["a"].size == (4 * 168 + 8, 2 * (160 + 44 + 8) + 8)
    assert pictures["one"].size == (168 + 8, 160 + 44 + 8 + 8)
    assert pictures["a"].tobytes() == pictures["b"].tobytes()
    assert pictures["a"].tobytes() != pictures["seed"].tobytes()
    assert pictures["a"].tobytes() != pictures["raw"].tobytes()
    assert pictures["one"].tobytes() == pictures["square"].tobytes()  # as it was trained
    above, middle = ((8, 8, 168, 8 + 53), (8, 8 + 54, 168, 8 + 106))  # 160 x 53 pixels in the middle of the cell
    assert pictures["wide"].crop(above).getextrema() == ((255, 255),) * 3
    assert pictures["wide"].crop(middle).getextrema() != ((255, 255),) * 3


@pytest.mark.parametrize(("options", "shift"), [([], 1.0), (["--shift", "3"], 3.0)])
def test_sample_takes_the_shift_of_the_trial_or_the_one_that_is_given(
    options: list[str], shift: float, trained: tuple[Path, Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def generate(
        network: object, formulation: object, eps: object, *rest: object, shift: float, **named: object
    ) -> object:
        given.append(shift)
        return eps

    monkeypatch.setattr(samples, "generate", generate)
    root, trial = trained
    done = invoke("sample", trial.trial_id, "--prompt", "x", "--store", root, "--out", tmp_path / "a.png", *options)
    assert done.exit_code == 0, done.output
    assert given == [shift]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--size", "10x8"], "size 10x8: model shape: side 10 is not divisible by patch 4; take side 8 or 12"),
        (["--size", "8"], "--size '8' is no size; write HEIGHTxWIDTH in pixels, such as --size 24x16"),
        (["--size", "0x8"], "size = 0 is not possible; give a whole number from 1 to 4,096"),
        (["--size", "8x5000"], "size = 5000 is not possible; give a whole number from 1 to 4,096"),
        (["--shift", "0"], "--shift 0 is not possible; give a number from 0.001 to 1,000"),
    ],
)
def test_sample_refuses_a_size_that_cannot_be(
    trained: tuple[Path, Trial], tmp_path: Path, options: list[str], sentence: str
) -> None:
    root, trial = trained
    done = invoke("sample", trial.trial_id, "--prompt", "x", "--store", root, "--out", tmp_path / "size.png", *options)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert not (tmp_path / "size.png").exists()


def test_sample_refuses_what_is_not_there(trained: tuple[Path, Trial], tmp_path: Path) -> None:
    root, trial = trained
    unfinished = Store(tmp_path / "s").trial("abcdefabcdef")
    unfinished.path.mkdir(parents=True)
    write_json(unfinished.record, {})
    (tmp_path / "s" / "trials" / "abcdef000000").mkdir()
    out = tmp_path / "out.png"
    for store, trial_id, sentence in (
        (tmp_path / "s", "abcdefa", "trial abcdefabcdef is not finished (partial); `rfscale run` its sweep first"),
        (tmp_path / "s", "abc", "2 trials start with 'abc' in the store"),
        (tmp_path / "s", "zzz", "there is no trial 'zzz' in the store"),
        (tmp_path / "s", "*", "there is no trial '*' in the store"),
        (tmp_path / "none", trial.trial_id, "there is no trial"),
    ):
        done = invoke("sample", trial_id, "--prompt", "x", "--store", store, "--out", out)
        assert done.exit_code == 2
        assert sentence in done.stderr
        assert not out.exists()
    done = invoke("sample", trial.trial_id, "--prompt", "x", "--store", root, "--out", tmp_path / "no" / "a.png")
    assert done.exit_code == 2
    assert "create it or change --out" in done.stderr


def test_train_says_that_a_finished_trial_is_finished(trained: tuple[Path, Trial], write_sweep: WriteSweep) -> None:
    root, trial = trained
    path = write_sweep(
        "name: two\nquestion: '?'\ndata: {name: digits}\nmodel: {depths: 1, width_per_depth: 16, patch: 4}\n"
        "formulations: rf\ntraining: {steps: 4, batch: 8}\nevaluation: {images: 8, points: 2}\n"
    )
    done = invoke("train", path, trial.trial_id, "--store", root)
    assert done.exit_code == 0
    assert f"trial {trial.trial_id} is finished already: val/loss" in done.stdout


# --- wrong input ------------------------------------------------------------------------------------------------------


def assert_refused(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("rfscale: ")
    assert sentence in done.stderr


def merged(tiny: Mapping, changes: Mapping) -> Mapping:
    """A section is merged into the one that is there, but for `data`, which is replaced."""
    return {
        **tiny,
        **{
            key: {**tiny[key], **value} if isinstance(value, dict) and key != "data" else value
            for key, value in changes.items()
        },
    }


BAD: dict[str, tuple[Mapping | str, str]] = {
    "an unknown key": ({"formulatoins": ["rf"]}, "unknown key 'formulatoins'; did you mean 'formulations'?"),
    "a misspelt formulation": ({"formulations": ["rf/lognrm(0,1)"]}, "did you mean 'rf/lognorm(m,s)'?"),
    "rf/mode(1.9)": ({"formulations": ["rf/mode(1.9)"]}, "rf/mode: s = 1.9 is outside [-1, 1.75194]"),
    "edm(0,-1)": ({"formulations": ["edm(0,-1)"]}, "edm: P_s = -1 is outside (0, 100]"),
    "heads that do not divide": ({"model": {"heads": 3}}, "width 16 is not divisible by 3 heads; take width 15 or 18"),
    "a missing data folder": ({"data": {"name": "folder", "path": "nowhere"}}, "/nowhere does not exist: give `path`"),
    "a negative batch": ({"training": {"batch": -64}}, "training.batch = -64: it should be a whole number from 1"),
    "a path of an unknown user": (
        {"data": {"name": "folder", "path": "~nosuchuser/images"}},
        "data.path '~nosuchuser/images': there is no user 'nosuchuser' here; write the whole path",
    ),
    "a path with a null character": (
        {"data": {"name": "folder", "path": "a\0b"}},
        "data.path 'a\\x00b' holds a null character",
    ),
    "a list": ("- rf\n- eps/linear\n", "holds ['rf', 'eps/linear'], not a mapping"),
    "a Python tag": (
        "name: !!python/object/apply:os.mkdir ['made']\n",
        "the tag '!!python/object/apply:os.mkdir' is not",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_sweep_is_refused_in_one_sentence_and_leaves_no_file(
    case: str, tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    definition, sentence = BAD[case]
    path = write_sweep(definition if isinstance(definition, str) else merged(tiny, definition))
    before = files_in(tmp_path)
    assert_refused(rfscale("run", path), sentence)
    # What a sweep on data that are not here would cost can be asked before they are.
    plan = () if case == "a missing data folder" else ("plan",)
    for command in (*plan, "train", "status", "report", "compare"):
        done = invoke(command, path, *(["0"] if command == "train" else []))
        assert done.exit_code == 2
        assert sentence in done.stderr
    assert files_in(tmp_path) == before


def picture_folder(folder: Path) -> Mapping:
    folder.mkdir()
    lines = []
    for i in range(12):
        Image.new("RGB", (16, 16), (i * 20, 0, 0)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"number {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return {"name": "folder", "path": folder.name, "resolution": 8}


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_corrupt_image_is_refused_before_anything_starts(
    command: str, tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    path = write_sweep({**tiny, "data": picture_folder(tmp_path / "pictures")})
    (tmp_path / "pictures" / "5.png").write_bytes((tmp_path / "pictures" / "5.png").read_bytes()[:40])
    trial_id = [load_sweep(path).trials[0].trial_id] if command == "train" else []
    before = files_in(tmp_path)
    assert_refused(rfscale(command, path, *trial_id), "5.png cannot be decoded")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_caption_file_is_refused(
    content: str, tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    path = write_sweep({**tiny, "data": picture_folder(tmp_path / "pictures")})
    (tmp_path / "pictures" / "metadata.jsonl").write_text(content)
    before = files_in(tmp_path)
    assert_refused(rfscale("run", path), "metadata.jsonl is empty: write a line such as")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("command", ["report", "compare"])
def test_an_mlflow_server_that_does_not_answer_is_refused_where_there_is_no_store_to_read(
    command: str, tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    with socket.socket() as closed:  # bound and not listening: nobody else gets the port, and nobody answers
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        path = write_sweep(tiny)
        before = files_in(tmp_path)
        done = rfscale(command, path, MLFLOW_TRACKING_URI=uri)
    assert_refused(done, f"the MLflow server {uri} does not answer")
    assert "unset it" in done.stderr
    assert files_in(tmp_path) == before


def test_options_and_ids_that_cannot_be(
    tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    path = write_sweep(tiny)
    before = files_in(tmp_path)
    assert_refused(
        rfscale("run", path, "--cpus", "-1"), "--cpus -1 is not possible; give a number above 0 and at most 100,000"
    )
    assert_refused(
        rfscale("train", path, "zzz"), "no trial of sweep tiny has the id 'zzz'; `rfscale plan` lists the ids"
    )
    for options in (["--cpus", "0"], ["--cpus", "nan"], ["--cpus", "inf"], ["--gpus", "-1"], ["--gpus", "200000"]):
        done = invoke("run", path, *options)
        assert done.exit_code == 2
        assert f"rfscale: {options[0]} {options[1]} is not possible" in done.stderr
    for wrong in ("--seed=-1", f"--seed={2**63}", f"--count={10**9}", "--guidance=nan", "--steps=0"):
        done = invoke("sample", "0", "--prompt", "a cat", wrong)
        assert done.exit_code == 2
        assert f"rfscale: {wrong.split('=')[0]} " in done.stderr
    assert invoke("plan", tmp_path / "none.yaml").exit_code == 2
    (tmp_path / "a-file").touch()
    done = invoke("run", path, "--store", tmp_path / "a-file")
    assert done.exit_code == 2
    assert f"the store {tmp_path / 'a-file'} is a file; give a folder with --store" in done.stderr
    assert files_in(tmp_path) - before == {"a-file"}


@pytest.mark.parametrize("wrong", ["~nosuchuser/x", "x" * 5000, "caf\udce9"])
def test_paths_of_the_command_line_that_cannot_be(
    wrong: str, tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    path = write_sweep(tiny)
    before = files_in(tmp_path)
    calls: list[tuple[str | Path, ...]] = [
        ("plan", wrong),
        ("plan", path, f"--store={wrong}"),
        ("sample", "0", "--prompt", "a cat", f"--out={wrong}.png"),
        ("plan", path, "--budget", "1e15", f"--out={wrong}"),
        ("fit", wrong),
    ]
    for call in calls:
        done = invoke(*call)
        assert done.exit_code == 2, done.output
        assert len(done.stderr.splitlines()) == 1
        assert len(done.stderr) < 600
    assert_refused(rfscale("run", path, "--store", wrong), "--store '")
    assert_refused(rfscale("plan", path, RFSCALE_STORE=wrong), "$RFSCALE_STORE '")
    assert files_in(tmp_path) == before


def test_a_tilde_behind_an_equals_sign_is_the_home(
    tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    done = rfscale("plan", write_sweep(tiny), "--store=~/results")
    assert f"store: {tmp_path / 'results'}" in done.stdout


def test_commands_on_a_sweep_that_was_never_run_say_so(
    tiny: Mapping, write_sweep: WriteSweep, rfscale: Rfscale, tmp_path: Path
) -> None:
    path = write_sweep(tiny)
    for command in ("report", "compare"):
        done = rfscale(command, path)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    done = rfscale("ui")
    assert_refused(done, f"there is no MLflow database {tmp_path / 'runs' / 'mlflow.db'}; run a sweep first")


def test_what_an_earlier_version_of_the_file_trained_is_in_no_number(
    tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    path, store = write_sweep(tiny), tmp_path / "old"
    store.mkdir()
    write_fake_sweep(store, "tiny", world_trials(World({"rf": 1.0, "eps/linear": 0.8}, depths=(1,))))
    for command in (["compare"], ["report"], ["plan", "--budget", "1e12"]):
        done = invoke(command[0], path, *command[1:], "--store", store)
        assert done.exit_code == 2
        assert "no trial of sweep 'tiny' can be used" in done.stderr
        assert "trained by another version of the file" in done.stderr


def test_files_that_cannot_be_written_are_refused_before_anything_is_computed(
    tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    path = write_sweep(tiny)
    for place, reason in (
        (tmp_path, "is a folder; name a file in it"),
        (tmp_path / "x.txt", "is no name of a PNG file"),
        (tmp_path / "none" / "x.png", "there is no folder"),
    ):
        done = invoke("sample", "abc", "--prompt", "a ring", "--out", place)
        assert done.exit_code == 2
        assert reason in done.stderr
    for option in (["--target", "depth=2,steps=9"], ["--out", "x.yaml"], ["--formulation", "rf"]):
        done = invoke("plan", path, *option)
        assert done.exit_code == 2
        assert f"{option[0]} has no effect without --budget" in done.stderr


def test_plan_and_status_say_where_they_looked(tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path) -> None:
    path = write_sweep(tiny)
    for command in ("plan", "status"):
        assert f"store: {tmp_path / 'typo'} (it does not exist yet)" in (
            invoke(command, path, "--store", tmp_path / "typo").stdout
        )


def test_plan_checks_the_judges_and_counts_their_evaluations(tiny: Mapping, write_sweep: WriteSweep) -> None:
    readable = {**tiny, "data": {"name": "shapes", "resolution": 16}}
    done = invoke("plan", write_sweep({**readable, "quality": {"settings": [{"steps": 2}, {"steps": 3}]}}))
    trials = int(re.search(r"(\d+) trials", done.stdout)[1])  # type: ignore[index]
    assert f"{2 * 2 * trials} evaluations of images" in done.stdout, "two settings, EMA and raw weights"
    done = invoke("plan", write_sweep({**tiny, "quality": {"judges": ["glyphs"]}}))
    assert done.exit_code == 2
    assert "the judge `glyphs` cannot score data `shapes`" in done.stderr


def test_a_damaged_file_of_the_store_is_named_and_hides_no_other_trial(
    tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    path = write_sweep({**tiny, "seeds": [0, 1]})
    (trial, other, *_) = load_sweep(path).trials
    folder = Store(tmp_path / "store").trial(trial.trial_id)
    folder.path.mkdir(parents=True)
    folder.record.write_text("{}")
    folder.result.write_text('{"status": "fin')
    done = invoke("status", path, "--store", tmp_path / "store", "--json")
    assert done.exit_code == 0
    found = {row["trial_id"]: row for row in json.loads(done.stdout)["trials"]}
    assert found[trial.trial_id]["status"] == names.DAMAGED
    assert f"{folder.result} is damaged" in found[trial.trial_id]["reason"]
    assert "the next run trains it again" in found[trial.trial_id]["reason"]
    assert found[other.trial_id]["status"] == names.NEW


def test_a_bug_keeps_its_traceback(tiny: Mapping, write_sweep: WriteSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, fields: Mapping) -> None:
        raise ValueError("a bug of ours is not the user's fault")

    monkeypatch.setattr("rfscale.cli.common.load_sweep", broken)
    done = invoke("plan", write_sweep(tiny))
    assert done.exit_code == 1
    assert isinstance(done.exception, ValueError)


# --- what tells trials apart ------------------------------------------------------------------------------------------


def test_plan_and_status_show_what_tells_two_trials_apart(
    tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    arms = {"rf": {}, "rf, shift 3, no norm": {"training": {"timestep_shift": 3}, "model": {"qk_norm": False}}}
    training = {**tiny["training"], "learning_rate": [1e-4, 1.25e-4, 2e-3]}
    path = write_sweep({**tiny, "arms": arms, "tune": ["training.learning_rate"], "training": training})
    for command in ("plan", "status"):
        lines = invoke(command, path, "--store", tmp_path / "s").stdout.splitlines()
        rows = [line for line in lines if re.match(r"[0-9a-f]{12}  ", line)]
        assert len({row[12:] for row in rows}) == len(rows) == 6
        assert all(sum(f" {rate} " in row for row in rows) == 2 for rate in ("0.0001", "0.000125", "0.002"))
        assert any(re.match(r"trial id +arm +learning rate +depth", line) for line in lines)
        assert all(len(row) <= 120 for row in rows)
    lines = invoke("plan", path, "--store", tmp_path / "s").stdout.splitlines()
    table = [re.split(" {2,}", line) for line in lines]
    assert ["arm", "qk norm", "timestep shift"] in table, "what all arms share is left out"
    assert ["rf", "true", "1"] in table
    assert ["rf, shift 3, no norm", "false", "3"] in table


def test_a_wide_plan_leaves_out_what_follows_from_the_rest(
    tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path
) -> None:
    path = write_sweep({**tiny, "arms": {"a": {}, "b" * 45: {"training": {"timestep_shift": 3}}}})
    lines = invoke("plan", path, "--store", tmp_path / "s").stdout.splitlines()
    head = next(line for line in lines if line.startswith("trial id"))
    assert "heads" not in head
    assert "parameters" in head
    assert all(len(line) <= 120 for line in lines if re.match(r"[0-9a-f]{12}  ", line))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plann"], "No such command 'plann'"),
        (["--bad"], "No such option"),
        (["plan"], "Missing argument 'SWEEP'. See `"),
        (["plan", "x.yaml", "--bad"], "No such option"),
        (["ui", "--port", "99999"], "Invalid value for '--port'"),
        (["ui", "--port", "abc"], "Invalid value for '--port'"),
        (["judge", "--resolution", "7"], "Invalid value for '--resolution'"),
    ],
)
def test_a_command_line_that_cannot_be_is_one_sentence(arguments: list[str], said: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("rfscale: ")
    assert said in line
    assert line.endswith("--help`.")


@pytest.mark.parametrize("folder", [".", "trials"])
def test_a_store_that_cannot_be_read_is_one_sentence(
    folder: str, tiny: Mapping, write_sweep: WriteSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, locked = write_sweep(tiny), tmp_path / "store" / folder
    locked.mkdir(parents=True)
    may = os.access
    # Who runs the tests may be root, whom no permission stops.
    monkeypatch.setattr(
        os, "access", lambda place, mode: Path(place).resolve() != locked.resolve() and may(place, mode)
    )
    for command in ("plan", "status", "run", "report"):
        done = invoke(command, path, "--store", tmp_path / "store")
        assert done.exit_code == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith("rfscale: cannot read ")
        assert "choose another store with --store" in line
