"""One data set in every container: the same batches from each, what is held out, and every way to be wrong."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from test_train import history, trained, trial_of, weights

from rfscale import names
from rfscale.data import DataError, DataSource, load, parquet, webdataset
from rfscale.data.folder import FolderData
from rfscale.data.hf import HfData
from rfscale.data.parquet import ParquetData
from rfscale.data.webdataset import WebDatasetData
from rfscale.spec.sweep import Samples
from rfscale.store import TrialFolder
from rfscale.train.loop import train
from rfscale.train.stopping import Stop

COUNT = 40
NAMES = [f"{number:03}.png" for number in range(COUNT)]
CAPTIONS = {
    "text": [f"a cat {n}" for n in range(COUNT)],
    "long": [f"a very long cat, number {n}" for n in range(COUNT)],
}


def picture(number: int, width: int = 14, height: int = 10) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


PICTURES = [picture(n, *((14, 10) if n % 2 else (10, 14))) for n in range(COUNT)]
Rows = list[dict[str, Any]]
ROWS: Rows = [
    {"name": name, "bytes": content, **{column: texts[n] for column, texts in CAPTIONS.items()}}
    for n, (name, content) in enumerate(zip(NAMES, PICTURES, strict=True))
]


# --- the containers ---------------------------------------------------------------------------------------------------


def as_folder(folder: Path, rows: Rows = ROWS, kind: str = "jsonl") -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / row["name"]).write_bytes(row["bytes"])
    lines = [{"file_name": row["name"], **{c: row[c] for c in CAPTIONS}} for row in rows]
    if kind == "jsonl":
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif kind == "csv":
        with open(folder / "metadata.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), folder / "metadata.parquet")
    return {"name": "folder", "path": str(folder)}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_tar(path: Path, rows: Rows, as_json: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row in rows:
            stem = row["name"].removesuffix(".png")
            add(tar, row["name"], row["bytes"])
            if as_json:
                add(tar, f"{stem}.json", json.dumps({c: row[c] for c in CAPTIONS}).encode())
            else:
                add(tar, f"{stem}.txt", f"{row['text']}\n".encode())
                add(tar, f"{stem}.long.txt", row["long"].encode())
    return path


def as_tar(folder: Path, rows: Rows = ROWS, as_json: bool = False) -> dict[str, Any]:
    for number, first in enumerate(range(0, len(rows), 15)):
        write_tar(folder / f"shard-{number:02}.tar", rows[first : first + 15], as_json)
    return {"name": "webdataset", "path": str(folder / "shard-{00..02}.tar")}


def table(rows: Rows) -> pyarrow.Table:
    return pyarrow.Table.from_pylist(
        [{"image": {"bytes": r["bytes"], "path": r["name"]}, **{c: r[c] for c in CAPTIONS}} for r in rows]
    )


def as_parquet(folder: Path, rows: Rows = ROWS) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, len(rows), 25)):
        pyarrow.parquet.write_table(
            table(rows[first : first + 25]), folder / f"part-{number}.parquet", row_group_size=7
        )
    return {"name": "parquet", "path": str(folder)}


def as_arrow(folder: Path, rows: Rows = ROWS) -> dict[str, Any]:
    """As `save_to_disk` writes it; the slow test below lets `datasets` do it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, first in enumerate(range(0, len(rows), 25)):
        content = table(rows[first : first + 25])
        files.append({"filename": f"data-{number:05}-of-00002.arrow"})
        with pyarrow.ipc.new_stream(str(folder / files[-1]["filename"]), content.schema) as stream:
            stream.write_table(content, max_chunksize=6)
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_fingerprint": "0", "_split": None}))
    return {"name": "hf", "path": str(folder)}


CONTAINERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder": as_folder,
    "csv": lambda folder: as_folder(folder, kind="csv"),
    "metadata.parquet": lambda folder: as_folder(folder, kind="parquet"),
    "tar": as_tar,
    "tar with json": lambda folder: as_tar(folder, as_json=True),
    "parquet": as_parquet,
    "hf": as_arrow,
}
KINDS = {"folder": FolderData, "webdataset": WebDatasetData, "parquet": ParquetData, "hf": HfData}


def spec(given: dict[str, Any], **fields: Any) -> Any:
    return KINDS[given["name"]].model_validate({**given, "resolution": 8, "validation_fraction": 0.2, **fields})


def batches(data: DataSource) -> list[tuple[bytes, tuple[str, ...]]]:
    found = [part for one in data.load_buckets() for part in (one.train(3, 0, 130), one.validation(100))]
    return [(part.images.tobytes(), part.captions) for part in found]


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "captions": {"captions": {"text": 0.5, "long": 1.5}},
    "buckets and flips": {"buckets": [[10, 7], [7, 10]], "flips": True},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_container_gives_the_same_batches(setting: str, tmp_path: Path) -> None:
    fields = SETTINGS[setting]
    expected = batches(spec(as_folder(tmp_path / "plain"), **fields))
    for name, make in CONTAINERS.items():
        data = spec(make(tmp_path / name), **fields)
        data.check(decode=True)
        assert batches(data) == expected, name
        assert data.extent() == spec(as_folder(tmp_path / "plain"), **fields).extent(), name


def test_where_a_pair_lies_means_nothing(tmp_path: Path) -> None:
    expected = batches(spec(as_folder(tmp_path / "plain"), **SETTINGS["captions"]))
    for name, make in (("folder", as_folder), ("tar", as_tar), ("parquet", as_parquet), ("hf", as_arrow)):
        assert batches(spec(make(tmp_path / name, ROWS[::-1]), **SETTINGS["captions"])) == expected, name


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_sample_is_a_function_of_seed_and_number(name: str, tmp_path: Path) -> None:
    """So a stop anywhere goes on with the same bits."""
    data = spec(CONTAINERS[name](tmp_path / "data"), **SETTINGS["captions"], flips=True)
    whole, again = load(data).train(5, 0, 70), load(data)
    for first, count in ((33, 20), (0, 7), (53, 17)):
        part = again.train(5, first, count)
        assert np.array_equal(part.images, whole.images[first : first + count])
        assert part.captions == whole.captions[first : first + count]
    assert load(data).train(6, 0, 70).captions != whole.captions


@pytest.mark.parametrize("stop", [1, 4])
def test_a_stop_in_mid_shard_goes_on_to_the_same_bits(stop: int, tmp_path: Path, tiny: dict[str, Any]) -> None:
    """Killed after 8 or 32 samples: tars hold 15, Parquet files 25 in row groups of 7, and an epoch is 32 pairs."""
    expected: dict[str, object] = {}
    for name in ("tar", "parquet"):
        given = {**CONTAINERS[name](tmp_path / name), **SETTINGS["captions"], "resolution": 8, "flips": True}
        trial = trial_of({**tiny, "data": given}, steps=9)
        alone = trained(trial, tmp_path / f"{name} alone")
        folder, asked = TrialFolder(tmp_path / f"{name} stopped"), Stop()

        def ask(step: int, loss: float, asked: Stop = asked) -> None:
            asked.asked = step >= stop

        assert train(trial, folder, progress=ask, samples=Samples(images=0), stop=asked) == names.INTERRUPTED
        assert folder.state().step == stop
        for module in (webdataset, parquet):  # another process has read nothing yet
            module._listing.cache_clear()
        trained(trial, folder.path)
        assert weights(folder) == weights(alone), name
        assert history(folder) == history(alone) == expected.setdefault("history", history(alone)), name


@pytest.mark.parametrize("name", CONTAINERS)
def test_identity_follows_the_content_and_not_the_place(name: str, tmp_path: Path) -> None:
    make = CONTAINERS[name]
    here, there = spec(make(tmp_path / "here")), spec(make(tmp_path / "there"))
    assert here.identity() == there.identity()
    assert set(here.identity()) == {"name", "resolution", "validation_fraction", "content"}
    assert spec(make(tmp_path / "here"), flips=True).identity() == {**here.identity(), "flips": True}
    changed = [{**row, "text": "a dog"} if row["name"] == "007.png" else row for row in ROWS]
    other = {"folder": as_folder, "webdataset": as_tar, "parquet": as_parquet, "hf": as_arrow}[here.name]
    content = spec(other(tmp_path / "other")).identity()
    assert spec(other(tmp_path / "other", changed)).identity() != content
    changed = [{**row, "bytes": row["bytes"] + b"0"} if row["name"] == "007.png" else row for row in ROWS]
    assert spec(other(tmp_path / "other", changed)).identity() != content


# --- sides, captions, flips -------------------------------------------------------------------------------------------

SIDED: dict[str, Callable[[Path, str, Rows], object]] = {
    "folder": lambda path, side, rows: as_folder(path / side, rows),
    "webdataset": lambda path, side, rows: write_tar(path / f"{side}-000.tar", rows),
    "parquet": lambda path, side, rows: as_parquet(path / side, rows),
    "hf": lambda path, side, rows: (
        as_arrow(path / side, rows),
        (path / "dataset_dict.json").write_text(json.dumps({"splits": sorted(p.name for p in path.glob("*/"))})),
    ),
}


@pytest.mark.parametrize("name", SIDED)
def test_train_validation_and_test_are_used_as_such(name: str, tmp_path: Path) -> None:
    for side, rows in (("train", ROWS[:30]), ("validation", ROWS[30:36]), ("test", ROWS[36:])):
        SIDED[name](tmp_path, side, rows)
    data = spec({"name": name, "path": str(tmp_path)})
    assert set(load(data).validation(100).captions) == set(CAPTIONS["text"][30:36])
    assert set(load(data).train(0, 0, 30).captions) == set(CAPTIONS["text"][:30])
    assert (data.extent().training, data.extent().held_out) == (30, 6)


@pytest.mark.parametrize("name", SIDED)
def test_without_validation_the_test_part_is_held_out(name: str, tmp_path: Path) -> None:
    for side, rows in (("train", ROWS[:30]), ("test", ROWS[30:])):
        SIDED[name](tmp_path, side, rows)
    assert set(load(spec({"name": name, "path": str(tmp_path)})).validation(100).captions) == set(CAPTIONS["text"][30:])
    shutil.rmtree(tmp_path)
    SIDED[name](tmp_path, "test", ROWS)
    with pytest.raises(DataError, match="has a test part and none to train on: add a part named train"):
        spec({"name": name, "path": str(tmp_path)}).check()


def test_which_caption_is_seen_follows_the_weights(tmp_path: Path) -> None:
    given = as_folder(tmp_path)
    data = load(spec(given, captions={"text": 1, "long": 3}))
    captions = data.train(0, 0, 8000).captions
    share = sum("very long" in caption for caption in captions) / len(captions)
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / len(captions)) ** 0.5
    first, second = (set(data.train(0, 32 * epoch, 32).captions) for epoch in (0, 1))
    assert first != second, "drawn anew in every epoch"
    assert data.validation(9).captions == load(spec(given, captions={"text": 1, "long": 3})).validation(9).captions
    held_out = load(spec(given, captions={"text": 1, "long": 3}, validation_fraction=0.5))
    captions = held_out.validation(12).captions
    assert len({"very long" in caption for caption in captions}) == 2
    for count in range(12):
        assert held_out.validation(count).captions == captions[:count], "however many are asked for"


def test_weights_are_one_identity_however_they_are_written(tmp_path: Path) -> None:
    given = as_folder(tmp_path)
    half = spec(given, captions={"text": 0.5, "long": 0.5})
    assert half == spec(given, captions=["long", "text"]) == spec(given, captions={"long": 2, "text": 2})
    assert half.model_validate(half.model_dump(mode="json")) == half
    assert spec(given, captions="text") == spec(given) == spec(given, captions={"text": 7})
    assert set(load(spec(given, captions="long")).train(0, 0, 9).captions) <= set(CAPTIONS["long"])


@pytest.mark.parametrize(
    ("captions", "sentence"),
    [
        ({"text": 0}, "0 is no weight of 'text'; give a number above 0"),
        ({"text": True}, "true is no weight of 'text'"),
        ({"": 1}, "is no choice of caption columns; write the columns with their weights"),
        (3, "3 is no choice of caption columns"),
        (["text", "text"], "names a caption column twice"),
        ([["text", 1], 3], "is no choice of caption columns"),
        ({str(n): 1 for n in range(21)}, "a list of 21 caption columns; give at most 20"),
    ],
)
def test_wrong_weights_give_one_sentence(captions: object, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        spec(as_folder(tmp_path), captions=captions)


def test_flips_mirror_half_of_the_training_samples(tmp_path: Path) -> None:
    given = as_folder(tmp_path)
    plain, flipped = load(spec(given)), load(spec(given, flips=True))
    before, after = plain.train(0, 0, 2000), flipped.train(0, 0, 2000)
    mirrored = np.array([np.array_equal(a, b[..., ::-1]) for a, b in zip(after.images, before.images, strict=True)])
    same = np.array([np.array_equal(a, b) for a, b in zip(after.images, before.images, strict=True)])
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / 2000**0.5
    assert after.captions == before.captions
    assert np.array_equal(plain.validation(9).images, flipped.validation(9).images)


def test_a_folder_of_before_keeps_its_record(tmp_path: Path) -> None:
    record = spec(as_folder(tmp_path)).record()
    assert not {"captions", "flips", "buckets"} & set(record)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def refused(data: Any, decode: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        data.check(decode=decode)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_a_truncated_image_is_named_with_its_place(tmp_path: Path) -> None:
    cut = [{**row, "bytes": row["bytes"][:150]} if row["name"] == "017.png" else row for row in ROWS]
    for make, where in (
        (as_tar, f"the image 017.png of {tmp_path}/webdataset/shard-01.tar cannot be decoded"),
        (as_parquet, f"the image in row 17 of {tmp_path}/parquet/part-0.parquet cannot be decoded"),
        (as_arrow, f"the image in row 17 of {tmp_path}/hf/data-00000-of-00002.arrow cannot be decoded"),
    ):
        name = where.split("/")[-2]
        data = spec(make(tmp_path / name, cut))
        data.check()
        assert refused(data, decode=True).startswith(where)
        with pytest.raises(DataError, match="cannot be decoded"):
            load(data).train(0, 0, 60)
    nothing = [{**row, "bytes": b"no image"} if row["name"] == "017.png" else row for row in ROWS]
    assert "(cannot identify image file): replace it" in refused(spec(as_tar(tmp_path / "x", nothing)), decode=True)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_read(kind: int, tmp_path: Path) -> None:
    """Long names and names that are not ASCII have headers of their own, or a prefix; folders are skipped."""
    long = "a" * 90 + "/" + "b" * 80 if kind == tarfile.USTAR_FORMAT else "c" * 300 + "/" + "d" * 200
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        folder = tarfile.TarInfo("./images")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, stem in enumerate(["./images/plain", long, "猫/ü", *map(str, range(7))]):
            add(tar, f"{stem}.png", PICTURES[number])
            add(tar, f"{stem}.txt", f"cat {number}".encode())
    data = spec({"name": "webdataset", "path": str(tmp_path / "a.tar")})
    entries = {entry.file_name: entry for entry in data.listing().entries}
    assert entries.keys() == {"images/plain.png", f"{long}.png", "猫/ü.png", *(f"{number}.png" for number in range(7))}
    for number, name in enumerate(["images/plain.png", f"{long}.png", "猫/ü.png"]):
        picture = data.listing().pictures[entries[name].image]
        assert picture.read() == PICTURES[number]
        assert entries[name].text == f"cat {number}"


@pytest.mark.parametrize("at", ["header", "middle", "end", "last header"])
def test_a_damaged_tar_names_the_member(at: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", ROWS)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    content = bytearray(path.read_bytes())
    if at in ("header", "last header"):
        member = members[60] if at == "header" else members[-1]
        before = members[members.index(member) - 1].name
        content[member.offset + 5 : member.offset + 100] = b"x" * 95
        path.write_bytes(content)
        expected = f"a.tar has a damaged header after {before}: write it anew"
    elif at == "middle":
        path.write_bytes(content[: members[60].offset_data + 10])
        expected = f"a.tar is damaged at {members[60].name} (unexpected end of data): write it anew"
    else:
        path.write_bytes(content[: members[-1].offset_data + 512])
        expected = f"a.tar is cut short after {members[-1].name}: write it anew"
    assert expected in refused(spec({"name": "webdataset", "path": str(path)}))


def test_a_tar_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", ROWS)
    data = load(spec({"name": "webdataset", "path": str(path)}))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a\.tar is shorter than when it was listed: start again"):
        data.train(0, 0, 40)


def test_what_is_no_tar_is_named(tmp_path: Path) -> None:
    data = {"name": "webdataset", "path": str(tmp_path / "a.tar")}
    assert "a.tar does not exist: give `path` an existing file or folder of tar shards" in refused(spec(data))
    (tmp_path / "a.tar").write_bytes(b"")
    assert "a.tar is damaged at its first member" in refused(spec(data))
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    assert "a.tar is damaged at its first member" in refused(spec(data))
    (tmp_path / "empty").mkdir()
    assert "holds no tar shards (.tar)" in refused(spec({**data, "path": str(tmp_path / "empty")}))
    missing = {**data, "path": str(tmp_path / "a-{0..3}.tar")}
    assert "a-0.tar does not exist" in refused(spec(missing))
    assert "write the lower number first" in refused(spec({**data, "path": str(tmp_path / "a-{3..0}.tar")}))


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        (
            {"a.png": PICTURES[0]},
            "a.png of .*a.tar has no caption `text`, neither as .txt nor in .json \\(there: none\\)",
        ),
        ({"a.png": PICTURES[0], "a.json": b'{"caption": "x"}'}, r"\(there: .json, caption\): add it, or name another"),
        ({"a.png": PICTURES[0], "a.json": b"{"}, "a.png of .*: its .json is not JSON"),
        ({"a.png": PICTURES[0], "a.json": b"[]"}, "its .json is no object"),
        ({"a.png": PICTURES[0], "a.json": b'{"text": 3}'}, "`text` is 3, but it must be a string"),
        ({"a.png": PICTURES[0], "a.txt": b"\xff"}, "its .txt is not UTF-8"),
        ({"a.png": PICTURES[0], "a.txt": b" \n"}, "the caption `text` is empty"),
        ({"a.png": PICTURES[0], "a.jpg": PICTURES[0], "a.txt": b"x"}, "has two images named a: a pair has one"),
        ({"a.txt": b"x"}, "holds no image with a caption: a pair is 0001.jpg with 0001.txt"),
        ({"a.txt": b"x" * (2**20 + 1)}, "a.txt of .* has 1,048,577 bytes: that is no caption"),
        ({"a.png": PICTURES[0], "a.txt": b"x"}, "lists 1 images, but at least 8 are needed"),
    ],
)
def test_a_wrong_pair_in_a_tar_gives_one_sentence(members: dict[str, bytes], sentence: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in members.items():
            add(tar, name, content)
    data = spec({"name": "webdataset", "path": str(tmp_path / "a.tar")})
    with pytest.raises(DataError, match=sentence):
        data.check()
    refused(data)


@pytest.mark.parametrize("name", ["parquet", "hf"])
def test_a_wrong_table_gives_one_sentence(name: str, tmp_path: Path) -> None:
    make = {"parquet": as_parquet, "hf": as_arrow}[name]
    given = make(tmp_path / "data")
    file = r"data/(part-0.parquet|data-00000-of-00002.arrow)"
    for fields, sentence in (
        ({"captions": "caption"}, "has no caption column `caption`; its columns are image, text, long: name one under"),
        ({"captions": "image"}, "the caption column `image` holds struct.* and no text: name another"),
        ({"image": "picture"}, "has no image column `picture`; its columns are image, text, long: name one under"),
        ({"image": "text"}, "the column `text` holds string and no images: name another"),
    ):
        data = spec(given, **fields)
        with pytest.raises(DataError, match=f"{file}:? {sentence}"):
            data.check()
        refused(data)
    empty = [{**row, "text": None} if row["name"] == "030.png" else row for row in ROWS]
    assert "row 5 of" in refused(spec(make(tmp_path / "empty", empty)))
    gone = [{**row, "bytes": None} if row["name"] == "030.png" else row for row in ROWS]
    assert "names the image 030.png, which cannot be read (No such file or directory)" in refused(
        spec(make(tmp_path / "gone", gone)), decode=True
    )
    for path in sorted((tmp_path / "data").glob("*.parquet")) + sorted((tmp_path / "data").glob("*.arrow")):
        path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read as" in refused(spec(given))


def test_bytes_alone_are_an_image_column_too(tmp_path: Path) -> None:
    rows = [{"image": row["bytes"], "text": row["text"]} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    data = spec({"name": "parquet", "path": str(tmp_path)})
    assert set(load(data).train(0, 0, 60).captions) <= set(CAPTIONS["text"])
    assert data.extent().held_out == 40 - data.extent().training  # type: ignore[operator]


def test_what_is_no_saved_data_set_is_named(tmp_path: Path) -> None:
    data = {"name": "hf", "path": str(tmp_path)}
    assert "has no state.json: give `path` a folder that save_to_disk of `datasets` wrote" in refused(spec(data))
    (tmp_path / "state.json").write_text("{")
    assert "state.json cannot be read" in refused(spec(data))
    (tmp_path / "state.json").write_text('{"_data_files": 3}')
    assert "names no files" in refused(spec(data))
    (tmp_path / "state.json").write_text('{"_data_files": [], "_indices_data_files": [1]}')
    assert "call flatten_indices() and save it again" in refused(spec(data))
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    assert "a.arrow cannot be read (No such file or directory)" in refused(spec(data))
    (tmp_path / "dataset_dict.json").write_text("{}")
    assert "names no splits" in refused(spec(data))


def test_a_folder_says_what_is_wrong_with_csv_and_parquet(tmp_path: Path) -> None:
    given = as_folder(tmp_path, kind="csv")
    path = tmp_path / "metadata.csv"
    text = path.read_text()
    path.write_text(text + "000.png,a,b,c\n")
    assert "metadata.csv, line 42 has another number of cells than the first line" in refused(spec(given))
    path.write_text(text.replace("file_name", "file"))
    assert "metadata.csv, line 2 has no `file_name`: each line needs file_name and text" in refused(spec(given))
    assert "each line needs file_name and long and short" in refused(spec(given, captions=["short", "long"]))
    path.write_bytes(text.encode() + b"\xff")
    assert "metadata.csv is not UTF-8" in refused(spec(given))
    path.write_text(text)
    (tmp_path / "metadata.parquet").write_bytes(b"x")
    assert "has both metadata.csv and metadata.parquet: keep the one that is right" in refused(spec(given))
    path.unlink()
    assert "metadata.parquet is not Parquet" in refused(spec(given))


def test_a_url_is_read_as_a_folder_is(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for folder, make, name in ((tmp_path / "t", as_tar, "webdataset"), (tmp_path / "p", as_parquet, "parquet")):
        here = make(folder)
        for file in folder.iterdir():
            memory.pipe(f"/data/{name}/{file.name}", file.read_bytes())
        there = spec({"name": name, "path": f"memory://data/{name}"})
        assert batches(there) == batches(spec(here))
        assert there.identity() == spec(here).identity()
    assert batches(spec({"name": "webdataset", "path": "memory://data/webdataset/shard-{00..02}.tar"})) == batches(
        spec({"name": "webdataset", "path": "memory://data/webdataset"})
    )
    memory.rm("/data", recursive=True)
    assert "memory://" in refused(spec({"name": "webdataset", "path": "memory://data/none-{0..1}.tar"}))
    assert "nosuch://x cannot be read" in refused(spec({"name": "parquet", "path": "nosuch://x"}))


@pytest.mark.slow
def test_what_datasets_and_webdataset_write_is_read(tmp_path: Path) -> None:
    datasets, webdataset = pytest.importorskip("datasets"), pytest.importorskip("webdataset")
    expected = batches(spec(as_folder(tmp_path / "folder")))
    whole = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "folder"), cache_dir=str(tmp_path / "cache"))
    whole["train"].save_to_disk(str(tmp_path / "saved"))
    assert batches(spec({"name": "hf", "path": str(tmp_path / "saved")})) == expected
    whole["train"].select(range(39, -1, -1)).save_to_disk(str(tmp_path / "turned"), num_shards=3)
    assert batches(spec({"name": "hf", "path": str(tmp_path / "turned")})) == expected
    split = whole["train"].train_test_split(10, seed=0)
    split.save_to_disk(str(tmp_path / "split"))
    data = spec({"name": "hf", "path": str(tmp_path / "split")})
    assert sorted(load(data).validation(100).captions) == sorted(split["test"]["text"])
    whole["train"].to_parquet(str(tmp_path / "p" / "train.parquet"))
    assert batches(spec({"name": "parquet", "path": str(tmp_path / "p")})) == expected
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for row in ROWS:
            writer.write({"__key__": row["name"].removesuffix(".png"), "png": row["bytes"], "txt": row["text"]})
    assert batches(spec({"name": "webdataset", "path": str(tmp_path / "w.tar")})) == expected
