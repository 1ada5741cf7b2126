"""Tar shards of pairs (WebDataset): read at any index without unpacking, by where each member lies in its file.

A pair is the members of one name and several endings: `000123.jpg` with its caption `000123.txt`, or `000123.json`, of
which each field is a caption column. The column `text` is the member .txt, or else the field; another column `x` is the
member .x.txt, or else the field.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from rfscale.data.base import DataError
from rfscale.data.decoding import Pictures, Stored
from rfscale.data.pairs import CAPTION, Entry, Listing, checked_caption, chosen_sides, content_of, lines_of
from rfscale.data.shards import Shard, find_shards
from rfscale.data.spec import PairsData
from rfscale.quoting import cut
from rfscale.registry import PathField

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")
_TEXTS = ("txt", "json")
_MAX_TEXT = 2**20  # bytes of a caption member
_BLOCK = tarfile.BLOCKSIZE


class WebDatasetData(PairsData):
    """Tar shards of images and captions (WebDataset), here or at a URL, read at random without unpacking."""

    name: Literal["webdataset"]
    path: Annotated[str, PathField(or_url=True)] = Field(
        min_length=1, description="a tar file, a folder of them, or a pattern such as cc12m-{0000..0041}.tar; or a URL"
    )

    def listing(self) -> Listing:
        return _listing(tuple(find_shards(self.path, (".tar",), "tar shards")), self.path, self.columns)


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a shard: where its bytes are."""

    shard: Shard
    name: str
    offset: int
    size: int


def _stored(member: Member) -> Stored:
    return Stored(
        f"{member.name} of {member.shard}",
        "replace it or take it out of the tar file",
        (member.shard.stamp, member.offset),
        partial(member.shard.read, member.offset, member.size),
    )


@lru_cache(maxsize=8)
def _listing(shards: tuple[Shard, ...], where: str, columns: tuple[str, ...]) -> Listing:
    members: list[Member] = []
    sides: dict[str | None, list[Entry]] = {}
    for shard in shards:
        for member, texts in _pairs(shard, columns):
            sides.setdefault(shard.side, []).append(Entry(member.name, texts, len(members)))
            members.append(member)
    if not members:
        raise DataError(f"{where} holds no image with a caption: a pair is 0001.jpg with 0001.txt or 0001.json.")
    training, held_out = chosen_sides(sides, where)
    named = {str(side): entries for side, entries in sides.items()}
    sizes = (f"{member.size} ".encode() for member in members)
    content = content_of([*lines_of(named), *sizes], [entry for entries in named.values() for entry in entries])
    entries = [entry for side, found in sides.items() if side in training for entry in found]
    return Listing(where, entries, Pictures(members, _stored), content, sides[held_out] if held_out else None)


def _pairs(shard: Shard, columns: tuple[str, ...]) -> Iterator[tuple[Member, tuple[str, ...]]]:
    """The images of a shard with their captions, in its order. Raises DataError that names the shard and the member."""
    images: dict[str, Member] = {}
    texts: dict[str, dict[str, bytes]] = {}
    for info, content in _members(shard):
        folder, slash, name = info.name.removeprefix("./").rpartition("/")
        stem, _, ending = name.partition(".")
        key, ending = f"{folder}{slash}{stem}", ending.lower()
        if ending in IMAGES:
            if key in images:
                raise DataError(f"{shard} has two images named {key}: a pair has one; rename or remove the other.")
            images[key] = Member(shard, info.name.removeprefix("./"), info.offset_data, info.size)
        elif content is not None:
            texts.setdefault(key, {})[ending] = content
    for key, member in images.items():
        yield member, _captions(f"{member.name} of {shard}", texts.get(key, {}), columns)


def _captions(where: str, texts: dict[str, bytes], columns: tuple[str, ...]) -> tuple[str, ...]:
    fields: dict[str, Any] = {}
    if "json" in texts:
        try:
            fields = json.loads(texts["json"])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: its .json is not JSON ({cut(str(error))}): correct it.") from error
        if not isinstance(fields, dict):
            raise DataError(f"{where}: its .json is no object: write the captions as its fields.")
    found: list[str] = []
    for column in columns:
        ending = "txt" if column == CAPTION else f"{column.lower()}.txt"
        if ending in texts:
            try:
                caption: object = texts[ending].decode().strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: its .{ending} is not UTF-8 ({cut(str(error))}): correct it.") from error
        elif column in fields:
            caption = fields[column]
        else:
            there = ", ".join(sorted({*(f".{text}" for text in texts), *map(str, fields)})) or "none"
            raise DataError(
                f"{where} has no caption `{column}`, neither as .{ending} nor in .json (there: {cut(there)}): "
                "add it, or name another under `captions`."
            )
        found.append(checked_caption(caption, column, where))
    return tuple(found)


class _Header(tarfile.TarInfo):
    """A header of which only name and size are read, where it is of the common kind: three times as fast."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        # POSIX ustar: name, mode, uid, gid, size, mtime, checksum, type, ..., prefix.
        plain = len(buf) == _BLOCK and buf[156:157] in (b"0", b"\0") and buf[257:262] == b"ustar" and not buf[345]
        try:
            checksum = int(buf[148:156].strip(b" \0"), 8) if plain else -1
            if checksum == sum(buf) - sum(buf[148:156]) + 8 * ord(" "):
                found = cls(buf[:100].split(b"\0", 1)[0].decode(encoding, errors))
                found.size, found.chksum, found.type = int(buf[124:136].strip(b" \0"), 8), checksum, tarfile.REGTYPE
                return found
        except ValueError:
            pass
        return super().frombuf(buf, encoding, errors)


def _members(shard: Shard) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Every file of a tar in order, with the content of those that hold captions.

    `tarfile` takes a damaged header for the end and says nothing: what stands where it stopped must be the mark of the
    end, a block of zeros. Raises DataError.
    """
    last = "its first member"
    with shard.open() as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
                for info in tar:
                    last = info.name
                    tar.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
                    if not info.isfile():
                        continue
                    is_text = info.name.lower().endswith(_TEXTS)
                    if is_text and info.size > _MAX_TEXT:
                        raise DataError(
                            f"{info.name} of {shard} has {info.size:,} bytes: that is no caption; remove it."
                        )
                    content = None
                    if is_text:
                        file.seek(info.offset_data)
                        content = file.read(info.size)
                        if len(content) != info.size:
                            raise tarfile.ReadError("unexpected end of data")
                    yield info, content
                file.seek(tar.offset)
                end = file.read(_BLOCK)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{shard} is damaged at {last} ({cut(str(error))}): write it anew.") from error
    if len(end) < _BLOCK or any(end):
        what = "is cut short" if len(end) < _BLOCK else "has a damaged header"
        raise DataError(f"{shard} {what} after {last}: write it anew.")
