"""What a name means in a store: one sweep. Its file may be edited, moved and copied; another file is refused."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rfscale.run.origin import check_name, command, record, recorded
from rfscale.spec.overrides import parse_fields
from rfscale.spec.sweep import SweepError
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store, StoreError

Mapping = dict[str, Any]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.check_writable()
    return store


def written(path: Path, definition: Mapping) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(definition))
    return path


def test_one_file_may_be_edited_moved_and_copied(tiny: Mapping, tmp_path: Path, store: Store) -> None:
    first = written(tmp_path / "a.yaml", tiny)
    check_name(load_sweep(first), store)
    record(load_sweep(first), store)
    check_name(load_sweep(written(first, {**tiny, "seeds": [1]})), store)  # edited
    check_name(load_sweep(first, {"training.steps": 9}), store)
    check_name(load_sweep(written(tmp_path / "copy.yaml", {**tiny, "question": "The same?"})), store)  # same trials
    check_name(load_sweep({**tiny, "seeds": [4]}), store)  # a mapping has no file
    moved = written(tmp_path / "b" / "a.yaml", {**tiny, "seeds": [2]})
    with pytest.raises(StoreError):
        check_name(load_sweep(moved), store)
    first.unlink()
    check_name(load_sweep(moved), store)


def test_two_files_of_one_name_are_refused_with_both_paths(tiny: Mapping, tmp_path: Path, store: Store) -> None:
    first, second = written(tmp_path / "a.yaml", tiny), written(tmp_path / "b.yaml", {**tiny, "seeds": [1]})
    record(load_sweep(first), store)
    with pytest.raises(StoreError, match=f"{first} and {second} are two sweeps of one name, tiny, .*--name NAME"):
        check_name(load_sweep(second), store)
    for name in ("other", "tiny"):  # said: it is meant
        check_name(load_sweep(second, {"name": name}), store)
    written(first, {**tiny, "name": "first"})
    check_name(load_sweep(second), store)  # the first has another name by now
    written(first, {**tiny, "name": "first"})
    record(load_sweep(first, {"name": "tiny"}), store)
    with pytest.raises(StoreError, match="two sweeps of one name"):  # its name was given beside it
        check_name(load_sweep(second), store)
    written(first, {"grids": 3})
    first.write_text("- no sweep")
    check_name(load_sweep(second), store)


def test_a_recorded_sweep_opens_without_its_file(tiny: Mapping, tmp_path: Path, store: Store) -> None:
    images = tmp_path / "images"
    images.mkdir()
    path = written(tmp_path / "a.yaml", tiny)
    fields = ["seeds=[0, 1]", "name=two"]
    sweep = load_sweep(path, parse_fields(fields))
    record(sweep, store)
    path.unlink()
    again = recorded("two", store)
    assert again == sweep
    assert again.origin.fields == sweep.origin.fields
    with pytest.raises(StoreError, match="has no sweep three; it has two"):
        recorded("three", store)
    shutil.rmtree(store.root)
    with pytest.raises(StoreError, match="it has none yet; give the sweep file"):
        recorded("three", store)
    store.check_writable()
    record(sweep, store)
    store.sweep("two").write_text("{}")
    with pytest.raises(StoreError, match="is damaged; remove it"):
        recorded("two", store)


def test_the_command_gives_the_same_sweep_again(
    tiny: Mapping, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "a file.yaml", tiny)
    sweep = load_sweep(path, parse_fields(["seeds=[0, 1]", "question=What's new?"]))
    program, verb, file, *rest = shlex.split(command(sweep, store))
    assert (program, verb, rest[-2:]) == ("rfscale", "run", ["--store", str(store.root)])
    assert load_sweep(file, parse_fields(rest[:-2])) == sweep
    monkeypatch.setenv("RFSCALE_STORE", str(store.root))
    assert "--store" not in command(sweep, store)
    *_, code = shlex.split(command(load_sweep(tiny), store))
    assert code == f'import rfscale; rfscale.open("{store.root}", "tiny").run()'


def test_a_name_that_is_no_file_name_reaches_no_file(tiny: Mapping, store: Store) -> None:
    with pytest.raises(SweepError):
        load_sweep(tiny, {"name": "../out"})
    store.identity()  # makes store.json
    with pytest.raises(StoreError, match="has no sweep"):
        recorded("../store", store)
