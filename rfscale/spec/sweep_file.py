"""A sweep file -> a `Sweep`: plain YAML in, one clear sentence out where something is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError
from yaml.constructor import ConstructorError

from rfscale.data.base import DataError
from rfscale.data.spec import DigitsData, FolderData, GlyphsData, ShapesData
from rfscale.data.text import TextSpec
from rfscale.judges.spec import ClipJudge, GenEvalJudge, GlyphsJudge, InceptionJudge, ShapesJudge
from rfscale.spec.sweep import (
    Evaluation,
    Grid,
    Ladder,
    Quality,
    Resources,
    Samples,
    Setting,
    Strict,
    Sweep,
    SweepError,
    Training,
    Trial,
    data_identity,
)


class _Header(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    question: Annotated[str, Field(min_length=1)]
    resources: Resources = Resources()
    samples: Samples = Samples()
    quality: Quality = Quality()


class _Loader(yaml.SafeLoader):
    """safe_load, with duplicate keys refused and `2e-3` read as a number (YAML 1.2; PyYAML alone reads a string)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
        if key in mapping:
            raise ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_sweep(path: str | Path) -> Sweep:
    """Read and validate a sweep file. Raises SweepError: one sentence that names the file, the key and the remedy."""
    return parse_sweep(read_mapping(path), source=str(path), folder=Path(path).parent)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a sweep file, not yet validated. Raises SweepError."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise SweepError(
            f"cannot read the sweep file {path}: {error.strerror}; give the path of a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise SweepError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-45
        raise SweepError(f"{path} cannot be read as YAML: {_yaml_problem(error)}") from error
    if not isinstance(raw, Mapping):
        held = "is empty" if raw is None else f"holds {_KINDS.get(type(raw), type(raw).__name__)}, not a mapping"
        raise SweepError(f"{path} {held}; write keys such as name:, question:, model:, formulations: and training:")
    return dict(raw)


def parse_sweep(raw: Mapping[str, Any], source: str = "sweep", folder: Path | None = None) -> Sweep:
    """Validate a sweep definition that is a mapping already. Relative image folders are relative to `folder`."""
    body = {k: v for k, v in raw.items() if k not in _Header.model_fields and k != "grids"}
    grids = raw.get("grids", [{}])
    _check_keys(body, Grid, source, extra=(*_Header.model_fields, "grids"))
    if not isinstance(grids, list) or not grids or not all(isinstance(g, Mapping) for g in grids):
        raise SweepError(f"{source}: grids must be a non-empty list of mappings, each overriding keys of the sweep")
    for i, grid in enumerate(grids):
        _check_grid(grid, f"{source}: grids[{i}]")
    stated = {k: v for k, v in raw.items() if k in _Header.model_fields}
    if "quality" in stated and stated["quality"] is None:
        raise SweepError(f"{source}: quality is empty; write `quality: {{}}` for every default, or leave it out")
    if isinstance(stated.get("quality"), Mapping) and stated["quality"].get("judges", ...) in ([], None):
        raise SweepError(f"{source}: quality.judges is empty; name a judge, or leave it out for that of the data")
    header = _validated(_Header, _located_judges(stated, folder), source)
    data_identity.cache_clear()  # an image folder may have changed since the last sweep of this process
    trials: dict[str, Trial] = {}
    seen = 0
    for i, grid in enumerate(grids):
        where = source if len(grids) == 1 else f"{source}: grids[{i}]"
        for trial in _grid_trials(_validated(Grid, _located(_merged(body, grid), folder), where), where):
            seen += 1
            trials.setdefault(trial.trial_id, trial)
    return Sweep(
        name=header.name,
        question=header.question,
        resources=header.resources,
        samples=header.samples,
        quality=header.quality if "quality" in raw else None,
        trials=tuple(trials.values()),
        duplicates=seen - len(trials),
    )


def _check_grid(grid: Mapping[str, Any], source: str) -> None:
    """The keys of one entry of `grids:`: those of a grid, since a sweep has one name, one question and so on."""
    whole = [key for key in grid if key in (*_Header.model_fields, "grids")]
    if whole:
        raise SweepError(f"{source}: {whole[0]!r} is one for the whole sweep; move it out of grids")
    _check_keys(grid, Grid, source)


def _grid_trials(grid: Grid, source: str) -> list[Trial]:
    try:
        grid.data.check()
        trials = list(grid.trials())
        for trial in trials:
            _ = trial.trial_id
    except ValidationError as error:
        raise SweepError(f"{source}: {_sentence(error)}") from error
    except DataError as error:
        raise SweepError(f"{source}: {error}") from error
    return trials


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            value = {**old, **value}
        merged[key] = value
    return merged


def _located(raw: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """A relative image folder is relative to the sweep file, so that the pair can be moved together."""
    data = raw.get("data")
    if (
        folder is not None
        and isinstance(data, Mapping)
        and data.get("name") == "folder"
        and isinstance(data.get("path"), str)
        and data["path"]
    ):
        return {**raw, "data": {**data, "path": str((folder / Path(data["path"]).expanduser()).resolve())}}
    return raw


# Keys of a judge that name a file or a folder. A model that is no path is a name on the hub.
_JUDGE_FILES = ("prompts", "weights", "metadata")
_JUDGE_MODELS = ("model", "detector", "clip")


def _located_judges(raw: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Relative files of a judge are relative to the sweep file, as image folders are."""
    quality = raw.get("quality")
    if folder is None or not isinstance(quality, Mapping) or not isinstance(quality.get("judges"), list | Mapping):
        return raw
    judges = quality["judges"] if isinstance(quality["judges"], list) else [quality["judges"]]

    def located(key: str, value: Any) -> Any:
        if (
            not isinstance(value, str)
            or not value
            or not (key in _JUDGE_FILES or (key in _JUDGE_MODELS and value.startswith((".", "/", "~"))))
        ):
            return value
        return str((folder / Path(value).expanduser()).resolve())

    there = [{k: located(k, v) for k, v in j.items()} if isinstance(j, Mapping) else j for j in judges]
    return {**raw, "quality": {**quality, "judges": there}}


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], raw: Mapping[str, Any], source: str) -> _Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SweepError(f"{source}: {_sentence(error)}") from error


def _check_keys(raw: Mapping[str, Any], model: type[BaseModel], source: str, extra: tuple[str, ...] = ()) -> None:
    allowed = [*model.model_fields, *extra]
    for key in raw:
        if key not in allowed:
            raise SweepError(f"{source}: {_unknown_key(str(key), '', allowed)}")


def _unknown_key(key: str, section: str, allowed: Iterable[str]) -> str:
    allowed = list(allowed)
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
    where = f" in {section}" if section else ""
    meant = f"did you mean {near[0]!r}? Allowed" if near else "allowed"
    return f"unknown key {key!r}{where}; {meant} are {', '.join(allowed)}"


_SECTIONS: dict[str, type[BaseModel]] = {
    "model": Ladder,
    "training": Training,
    "evaluation": Evaluation,
    "samples": Samples,
    "quality": Quality,
    "resources": Resources,
    "text": TextSpec,
}
_DATA: dict[str, type[BaseModel]] = {
    "shapes": ShapesData,
    "glyphs": GlyphsData,
    "digits": DigitsData,
    "folder": FolderData,
}
_JUDGES: dict[str, type[BaseModel]] = {
    judge.model_fields["name"].default: judge
    for judge in (ShapesJudge, GlyphsJudge, ClipJudge, InceptionJudge, GenEvalJudge)
}
_KINDS: dict[type, str] = {str: "text", list: "a list", int: "a number", float: "a number", bool: "a truth value"}


def _sentence(error: ValidationError) -> str:
    """The first problem of a pydantic error as one sentence, with how many more there are."""
    # A misspelt key first: that the right one is missing too is the same mistake.
    problem, *more = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    location = [str(part) for part in problem["loc"]]
    kind: type[BaseModel] = Grid
    known = _DATA
    if location[:2] == ["quality", "judges"]:
        known = _JUDGES
        kind = known.get(location.pop(3), Quality) if len(location) > 3 else Quality
    elif location[:2] == ["quality", "settings"]:
        kind = Setting
    elif location[:1] == ["data"] and len(location) > 1 and location[1] in _DATA:
        kind = _DATA[location.pop(1)]  # pydantic names the chosen data set between `data` and the key
    elif location:
        kind = _SECTIONS.get(location[0], Grid)
    name = ".".join(location)
    if problem["type"] == "extra_forbidden":
        text = _unknown_key(location[-1], ".".join(location[:-1]), kind.model_fields)
    elif problem["type"] == "value_error":
        text = f"{name + ': ' if name else ''}{problem['ctx']['error']}"
    elif problem["type"] == "missing":
        text = f"the key {name!r} is missing; add it"
    elif problem["type"].startswith("union_tag"):
        given = f" = {problem['ctx']['tag']}" if "tag" in problem.get("ctx", {}) else ""
        text = f"{name}.name{given} is {'not known' if given else 'missing'}; it must be one of {', '.join(known)}"
    elif problem["type"] in ("model_type", "model_attributes_type"):
        text = f"{name} = {problem['input']!r} is not a mapping; write {name}: {{key: value, ...}}"
    elif problem["type"] == "string_pattern_mismatch":
        text = (
            f"{name} = {problem['input']!r} is not a file name; begin with a letter or digit, and use letters, digits, "
            "'.', '_' and '-'"
        )
    elif problem["type"] == "string_too_long":
        text = f"{name} has {len(problem['input'])} characters; give it at most {problem['ctx']['max_length']}"
    elif problem["type"] in ("too_short", "string_too_short"):
        text = f"{name} is empty; give it a value"
    else:
        text = f"{name} = {problem['input']!r}: {problem['msg'].replace('Input should', 'it should')}"
    return _one_line(text) + (f" (and {len(more)} more problem{'s' if len(more) > 1 else ''})" if more else "")


def _yaml_problem(error: Exception) -> str:
    """What is wrong and in which line, without PyYAML's names for its own parts."""
    if not isinstance(error, yaml.MarkedYAMLError) or not error.problem:
        return _one_line(error) if not isinstance(error, RecursionError) else "it is nested too deeply"
    where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    if "could not determine a constructor for the tag" in error.problem:
        tag = error.problem.split("'")[1].replace("tag:yaml.org,2002:", "!!")
        return f"{where}the tag {tag!r} is not allowed, only plain values are; remove it"
    return where + _one_line(error.problem)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
