"""A sweep file -> a `Sweep`: strict YAML in, one clear sentence out where something is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from rfscale.backbones.cost import TransformerShape
from rfscale.data.base import AbsentError, DataError
from rfscale.data.spec import DataSource
from rfscale.numbers import Listed
from rfscale.paths import PathError, expanded
from rfscale.quoting import cut, quoted
from rfscale.registry import load_plugin
from rfscale.spec.axes import AxisError, Point, UnknownFieldError, layout
from rfscale.spec.listed import listable, listed_fields, one_by_one
from rfscale.spec.match import check_width, matched, matching, sizes, unmatched
from rfscale.spec.merge import merged
from rfscale.spec.overrides import edited, plain, written
from rfscale.spec.sentences import LONGEST, nearest, sentence, unknown_key
from rfscale.spec.sweep import Grid, Origin, Quality, Resources, Samples, Sweep, SweepError
from rfscale.spec.texts import check_stored_text
from rfscale.spec.trial import Strict, Trial, bucket_images, data_identity, plugins_of
from rfscale.spec.yaml import YamlError, parse, read_text

MAX_TRIALS = 20_000
"""Trials of one sweep, before duplicates are merged: the paper's study has 61 formulations on a few sizes."""
MAX_LABEL = 100
"""Characters of the label of an arm."""
LADDER = 3
"""Sizes: through fewer no law is fitted."""


class _Header(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    question: Annotated[str, Field(min_length=1)]
    resources: Resources = Resources()
    samples: Samples = Samples()
    quality: Quality = Quality()
    plugins: Annotated[tuple[str, ...], Listed] = ()
    arms: dict[str, dict[str, Any]] = Field(default={}, description="label -> what it sets")
    tune: Annotated[tuple[str, ...], Listed] = ()


_WHOLE = (*_Header.model_fields, "grids")
"""Keys that a sweep has once."""


_absent = [False]


@contextmanager
def allowing_absent_data(allowed: bool = True) -> Iterator[None]:
    """While the block lasts, a sweep whose data are not on this machine is read too: for its plan, with open ids."""
    before, _absent[0] = _absent[0], allowed or _absent[0]
    try:
        yield
    finally:
        _absent[0] = before


def load_sweep(given: str | Path | Mapping[str, Any], fields: Mapping[str, Any] | None = None) -> Sweep:
    """Read and validate a sweep file, or a mapping that says the same, with `fields` in the place of the file's own.

    `fields`: dotted key -> value, such as `training.steps`, as in `rfscale.spec.overrides`. Raises SweepError: one
    sentence that names the file, the key and the remedy.
    """
    fields = fields or {}
    if isinstance(given, Mapping):
        path, source, folder, raw = None, "sweep", Path.cwd(), plain("sweep", given)
    else:
        path, source, folder, raw = Path(given), str(given), Path(given).parent, read_mapping(given)
    definition, beside = edited(raw, fields, source), written(fields)
    sweep = parse_sweep(definition, cut(f"{source} with {' '.join(beside)}", 200) if beside else source, folder)
    return sweep.model_copy(update={"origin": Origin(path, folder, beside, definition)})


def read_mapping(
    path: str | Path, what: str = "sweep", keys: str = "name:, question:, model:, formulations: and training:"
) -> dict[str, Any]:
    """The mapping in a sweep file, or in another one of ours, not yet validated. Raises SweepError."""
    shown = cut(str(path), 200)
    try:
        raw = parse(read_text(path))
    except PathError as error:
        raise SweepError(f"cannot read the {what} file: {error}") from error
    except OSError as error:
        raise SweepError(
            f"cannot read the {what} file {shown}: {error.strerror}; give the path of a YAML file"
        ) from error
    except YamlError as error:
        raise SweepError(f"{shown} cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        held = "is empty" if raw is None else f"holds {quoted(raw)}, not a mapping"
        raise SweepError(f"{shown} {held}; write keys such as {keys}")
    return raw


def parse_sweep(raw: Mapping[str, Any], source: str = "sweep", folder: Path | None = None) -> Sweep:
    """Validate a sweep definition that is a mapping already. Relative image folders are relative to `folder`.

    Raises SweepError.
    """
    _check_nothing_is_empty(raw, source)
    _load_plugins(raw.get("plugins", ()), source, folder)
    body = {k: v for k, v in raw.items() if k not in _WHOLE}
    grids = raw.get("grids", [{}])
    _check_keys(body, Grid, source, extra=_WHOLE)
    if not isinstance(grids, list) or not grids or not all(isinstance(g, Mapping) for g in grids):
        raise SweepError(f"{source}: grids must be a non-empty list of mappings, each overriding keys of the sweep")
    for i, grid in enumerate(grids):
        _check_part(grid, f"{source}: grids[{i}]")
    _check_arms(raw.get("arms", {}), source)
    header = _validated(_Header, _stated(raw), source, folder)
    data_identity.cache_clear()  # an image folder may have changed since the last sweep of this process
    bucket_images.cache_clear()
    points: list[Point] = []
    for i, grid in enumerate(grids):
        where = source if len(grids) == 1 else f"{source}: grids[{i}]"
        try:
            points += _points(merged(body, grid), header.arms, i, len(points), where, folder)
        except AxisError as error:
            raise SweepError(f"{where}: {error}") from error
    trials = {point.trial.trial_id: point.trial for point in points}
    check_stored_text(trials.values(), source)
    try:
        placed = layout(points, header.tune, lambda grid: listable(grid.model_dump()))
    except UnknownFieldError as error:
        raise SweepError(f"{source}: {cut(f'{error}; {nearest(error.name, error.known)}', LONGEST)}") from error
    except AxisError as error:
        raise SweepError(f"{source}: {error}") from error
    return Sweep(
        name=header.name,
        question=header.question,
        resources=header.resources,
        samples=header.samples,
        quality=_with_plugins(header.quality) if "quality" in raw else None,
        trials=tuple(trials.values()),
        layout=placed,
        duplicates=len(points) - len(trials),
        notes=(*_notes(raw, grids), *_too_narrow(trials.values())),
        sizes=tuple(sizes(points, placed)),
    )


def _load_plugins(given: Any, source: str, folder: Path | None) -> None:
    """Run the plug-ins that a sweep names, before anything that may come from them is read.

    Raises SweepError, and PluginError where that is not allowed.
    """
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise SweepError(f"{source}: plugins = {quoted(given)} is no list of Python files; write plugins: [mine.py]")
    for path in paths:
        load_plugin(_beside(folder, path, f"{source}: plugins:"))


def _points(
    body: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    grid: int,
    before: int,
    source: str,
    folder: Path | None,
) -> list[Point]:
    """The trials of one entry of `grids:`, arm by arm, each with its place on the axes."""
    points: list[Point] = []
    checked: set[DataSource] = set()
    first: Grid | None = None
    asked = done = False  # for a match
    for arm, overrides in (arms or {"": {}}).items():
        where = f"{source}: arms.{arm}" if arm else source
        whole = merged(body, overrides)
        check_width(overrides.get("model"), whole.get("model"), where, first is None)
        combinations = math.prod(len(values) for _, values in listed_fields(whole))
        ahead = before + len(points)
        for one, fields in one_by_one(whole):
            written = _validated(Grid, one, where, folder)
            count = max(before + len(points) + written.count, ahead + combinations * written.count)
            if count > MAX_TRIALS:
                raise SweepError(f"{where}: {_too_many(written, whole, count)}")
            asked = asked or matching(written) is not None
            first = first or unmatched(written)
            written = _matched(written, first, where)
            done = done or matching(written) is not None
            points += [
                Point(trial, grid, arm, written, values, frozenset(fields))
                for trial, values in _grid_trials(written, checked, where)
            ]
    if asked and not done:
        raise AxisError(
            "model.match has nothing to match: every arm has the networks of the first one; remove it, or add an arm"
        )
    return points


def _matched(grid: Grid, first: Grid, where: str) -> Grid:
    """The grid with its widths worked out, where it is matched to the first arm. Raises SweepError."""
    try:
        return matched(grid, first)
    except ValidationError as error:
        raise SweepError(f"{where}: {sentence(error)}") from error
    except (AxisError, ValueError) as error:
        raise SweepError(f"{where}: {error}") from error


def _with_plugins(quality: Quality) -> Quality:
    return quality.model_copy(update={"plugins": plugins_of(*quality.judges)})


def _stated(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in raw.items() if k in _Header.model_fields}


def _check_nothing_is_empty(value: Any, source: str, place: str = "") -> None:
    """A key without a value would be read as the default: raise SweepError that names it."""
    if value is None:
        raise SweepError(f"{source}: {cut(place)} is empty; give it a value, or leave it out")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_nothing_is_empty(inner, source, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        if not value:
            raise SweepError(f"{source}: {cut(place)} is an empty list; give it a value, or leave it out")
        for i, inner in enumerate(value):
            _check_nothing_is_empty(inner, source, f"{place}[{i}]")


def _too_many(grid: Grid, whole: Mapping[str, Any], seen: int) -> str:
    axes = [
        *((len(values), field) for field, values in listed_fields(whole)),
        (len(grid.model.depths), "depths"),
        (len(grid.formulations), "formulations"),
        (len(grid.training.budgets), "budgets"),
        (len(grid.seeds), "seeds"),
    ]
    product = " x ".join(f"{n:,} {name}" for n, name in axes if n > 1)
    count = math.prod(n for n, _ in axes)
    so_far = f" make {count:,} trials" + (f", {seen:,} with the grids before it" if seen > count else "")
    return (
        f"{product or 'its axes'}{so_far}; a sweep has at most {MAX_TRIALS:,}, so shorten an axis, or write several "
        "sweep files: a trial that stands in two of them is trained once"
    )


def _notes(raw: Mapping[str, Any], grids: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What a sweep says that its writer may not have meant, one sentence each."""
    named = [value for value in (raw.get("seeds"), *(grid.get("seeds") for grid in grids)) if isinstance(value, int)]
    for seed in dict.fromkeys(named):
        if seed > 0:
            several = ", ".join(map(str, range(seed))) if seed <= 8 else f"0, 1, ..., {seed - 1}"
            yield f"seeds: {seed} is one seed, whose number is {seed}; for {seed} seeds write seeds: [{several}]"


def _too_narrow(trials: Iterable[Trial]) -> Iterator[str]:
    """Where a ladder of three sizes or more has a network narrower than a patch: what it gives has less rank than what
    it reads, so its loss stays high however long it trains, and falls with the width and not by a power law."""
    found = {trial.model: trial.shape for trial in trials}.values()
    shapes = [shape for shape in found if isinstance(shape, TransformerShape)]
    if len({shape.depth for shape in shapes}) < LADDER:
        return
    narrow = [shape for shape in shapes if shape.image_width < shape.patch_width]
    if narrow:
        worst = min(narrow, key=lambda shape: (shape.image_width - shape.patch_width, shape.depth))
        yield (
            f"model: at depth {worst.depth} the width {worst.image_width} is less than the {worst.patch_width} numbers "
            f"of a patch ({worst.patch} x {worst.patch} x {worst.channels}), which do not all pass through it, so its "
            "loss may follow no power law of size; take a smaller patch or a wider model"
        )


def _check_part(part: Mapping[str, Any], source: str) -> None:
    """The keys of one entry of `grids:` or `arms:`: those of a grid, since a sweep has one name, one question and so
    on."""
    whole = [key for key in part if key in _WHOLE]
    if whole:
        raise SweepError(f"{source}: {whole[0]!r} is one for the whole sweep; write it at the top of the file")
    _check_keys(part, Grid, source)


def _check_arms(arms: Any, source: str) -> None:
    """A label stands in tables, figures and sentences: one line of it, short and not empty."""
    if not isinstance(arms, Mapping):
        raise SweepError(
            f"{source}: arms = {quoted(arms)} is not a mapping; write arms: {{label: {{key: value, ...}}}}"
        )
    for label, arm in arms.items():
        if not label.strip() or not label.isprintable() or len(label) > MAX_LABEL:
            raise SweepError(
                f"{source}: arms: {quoted(label)} is no label; give each arm a name of 1 to {MAX_LABEL} characters "
                "that can be printed, on one line"
            )
        if not isinstance(arm, Mapping):
            raise SweepError(f"{source}: arms.{label} = {quoted(arm)} is not a mapping; write the keys that it sets")
        _check_part(arm, f"{source}: arms.{label}")


def _grid_trials(grid: Grid, checked: set[DataSource], source: str) -> list[tuple[Trial, dict[str, Any]]]:
    """The trials and where they stand on the axes; `checked`: the data that needs no second look."""
    try:
        if grid.data not in checked:
            grid = _checked(grid)
            checked.add(grid.data)
        grid.data.check_stream(max(grid.seeds), max(grid.training.budgets) * grid.training.batch)
        trials = list(grid.trials())
        for trial, _ in trials:
            data_identity(trial.data)
    except ValidationError as error:
        raise SweepError(f"{source}: {sentence(error)}") from error
    except (DataError, PathError) as error:
        raise SweepError(f"{source}: {error}") from error
    return trials


def _checked(grid: Grid) -> Grid:
    """The grid with data that were looked at; with unread ones where they may be absent, and are. Raises DataError."""
    try:
        grid.data.check()
    except AbsentError:
        unread = grid.data.unread() if _absent[0] else None
        if unread is None:
            raise
        return grid.model_copy(update={"data": unread})
    return grid


def _beside(folder: Path | None, given: str, what: str) -> str:
    """A path from a sweep file, absolute. Raises SweepError."""
    try:
        return str(((folder or Path()) / expanded(given, what)).resolve())
    except PathError as error:
        raise SweepError(str(error)) from error


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], raw: Mapping[str, Any], source: str, folder: Path | None) -> _Model:
    try:
        return model.model_validate(raw, context={"folder": folder})
    except ValidationError as error:
        raise SweepError(f"{source}: {sentence(error)}") from error


def _check_keys(raw: Mapping[str, Any], model: type[BaseModel], source: str, extra: tuple[str, ...] = ()) -> None:
    allowed = [*model.model_fields, *extra]
    for key in raw:
        if key not in allowed:
            raise SweepError(f"{source}: {unknown_key(str(key), '', allowed)}")
