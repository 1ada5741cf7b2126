"""Which column of somebody else's table is what: by options, by a small YAML file, or by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from rfscale.quoting import quoted
from rfscale.spec.sweep import SweepError
from rfscale.store import StoreError

COLUMNS = ("loss", "parameters", "samples", "flops", "step", "seed")
"""Each one column of numbers; of the same name, where none is given."""
LISTS = ("arm", "run", "size")
"""Each a list of columns of any kind."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """`arm`: the columns whose values are compared; `run`: those that name a training, so that rows with the same
    values are points along it, none where each row is a training of its own; `size`: further columns that tell model
    sizes apart, such as width and depth. `name` and `question`: of the whole; `where`: which rows, as of `rfscale fit`.
    """

    loss: str | None = None
    parameters: str | None = None
    samples: str | None = None
    flops: str | None = None
    step: str | None = None
    seed: str | None = None
    arm: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    size: tuple[str, ...] = ()
    name: str = ""
    question: str = ""
    where: str = ""

    def over(self, other: Mapped) -> Mapped:
        """This, and what it does not say from the other."""
        said = {key: value for key in keys() if (value := getattr(self, key))}
        return replace(other, **said)


def keys() -> list[str]:
    """What can be said."""
    return [field.name for field in fields(Mapped)]


def read_mapping(path: Path) -> Mapped:
    """A YAML file with the names of the options as keys. Raises StoreError and SweepError."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:200]
        raise StoreError(
            f"cannot read the columns of {path} ({said}); give a YAML file such as `loss: final_loss`"
        ) from error
    if not isinstance(found, Mapping):
        raise SweepError(f"{path} is no mapping; write lines such as `loss: final_loss`")
    return mapped(found, str(path))


def mapped(found: Mapping[Any, Any], where: str = "the columns") -> Mapped:
    """The same of a mapping. Raises SweepError for an unknown key, and for what is no name of a column."""
    for key, value in found.items():
        if key not in keys():
            raise SweepError(f"{where}: unknown key {quoted(key)}; there are {', '.join(keys())}")
        listed = isinstance(value, list | tuple) and key in LISTS
        if not all(isinstance(one, str) for one in (value if listed else [value])):
            raise SweepError(f"{where}: {key} is {quoted(value)}; give the name of a column")
    said: dict[str, Any] = {key: _listed(value) if key in LISTS else value for key, value in found.items()}
    return Mapped(**said)


def _listed(value: Any) -> tuple[str, ...]:
    """Columns as a list, or as text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())
