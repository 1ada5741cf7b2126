"""The one mechanism by which a choice of the user is named, listed and built.

A kind (data, text encoder, backbone, schedule, judge) is a `Kind`: a registry from names to the classes of specs. A
spec is what the user writes, frozen and strict, and builds itself: its methods import what is heavy. From the registry
follow the union in the sweep file, the error that names the alternatives, which fields are paths, the tables in the
documentation and what `rfscale list` prints.

A new one is its own file and one line in the registry of its kind; an installed package adds one by an entry point of
the group `rfscale.<kind>`, and a file named under `plugins:` by `Kind.add`, where the command allows it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, JsonValue, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from rfscale.names import RfscaleError
from rfscale.paths import PathError, expanded
from rfscale.quoting import cut, quoted

CHOICE, KEY, PATH = "choice_refused", "key_refused", "path_refused"
"""The types of our errors in pydantic's list: an unknown name, an unknown key of a spec, a path that can be none."""


class PluginError(RfscaleError, RuntimeError):
    """A plug-in cannot be used; the message is one sentence."""


# --- specs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PathField:
    """Metadata of a text field: a path, relative to the sweep file. `or_name`: only where it begins like one; `or_url`:
    unless it is a URL."""

    or_name: bool = False
    or_url: bool = False

    def is_path(self, value: object) -> bool:
        if self.or_url and isinstance(value, str) and "://" in value:
            return False
        return isinstance(value, str) and bool(value) and (not self.or_name or value.startswith((".", "/", "~")))


class Spec(BaseModel):
    """What the user writes of one choice: frozen, strict, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that were added when runs were on record already: on record only where they differ from their default, or
    a run of before and one of after would be two kinds of run."""

    def identity(self) -> dict[str, JsonValue]:
        """The fields that differ from their defaults, without paths: a field added later, with a default that keeps the
        old behaviour, leaves old ids unchanged. Override it to put the content of files in the place of their path."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=paths_of(type(self)))

    def record(self) -> dict[str, JsonValue]:
        """The whole identity, defaults included but for those of fields that are `later`."""
        unsaid = paths_of(type(self)) | set(self.unsaid())
        return {**self.model_dump(mode="json", exclude=unsaid), **self.identity()}

    def unsaid(self) -> dict[str, JsonValue]:
        """The fields that `record` leaves out as they are `later`, with their defaults: a run that was recorded between
        has them, and is the same kind of run."""
        changed = self.model_dump(mode="json", exclude_defaults=True)
        return self.model_dump(mode="json", include={key for key in self.later if key not in changed})


def paths_of(spec: type[BaseModel]) -> set[str]:
    """The fields that always name a file or a folder."""
    return {key for key, of in _path_fields(spec).items() if not of.or_name}


def _path_fields(spec: type[BaseModel]) -> dict[str, PathField]:
    return {
        key: data for key, info in spec.model_fields.items() for data in info.metadata if isinstance(data, PathField)
    }


# --- kinds ------------------------------------------------------------------------------------------------------------

S = TypeVar("S", bound=Spec)
KINDS: dict[str, Kind] = {}
"""Every kind by its name."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of choice. `section` is where it stands in a sweep file, `tag` the key that names the choice, `default`
    the choice where that key is left out ("": it must be given), `entries` name -> "module:class"."""

    name: str
    section: str
    tag: str
    default: str
    entries: dict[str, str]
    written: Callable[[Any], type[BaseModel]] = lambda spec: spec
    """The class that a sweep file's mapping is read as: the spec itself, unless the file says several at once."""
    family: bool = False
    """Whether the choices share keys of one meaning: what stands at the top of a sweep file is then for all of them."""
    _classes: dict[str, type[Spec]] = field(default_factory=dict)
    _plugins: dict[str, Plugin] = field(default_factory=dict)

    def __post_init__(self) -> None:
        KINDS[self.name] = self

    @property
    def title(self) -> str:
        return self.name.capitalize()

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.entries, *self._installed(), *self._classes]))

    def __contains__(self, name: object) -> bool:
        return name in self.entries or name in self._classes or name in self._installed()

    def get(self, name: str) -> type[Spec]:
        """The class of a name. Raises KeyError."""
        if name not in self._classes:
            where = self.entries.get(name) or self._installed()[name]
            module, _, attribute = where.partition(":")
            self._classes[name] = getattr(importlib.import_module(module), attribute)
        return self._classes[name]

    def add(self, spec: type[S]) -> type[S]:
        """Register a class under the default of its `tag`: the decorator of a plug-in. Raises PluginError."""
        name = spec.model_fields[self.tag].default if self.tag in spec.model_fields else None
        if not isinstance(name, str):
            raise PluginError(
                f"{spec.__name__} cannot be added to {self.name}: give it a field {self.tag} with its name as default"
            )
        if name in self and self._classes.get(name) is not spec:
            raise PluginError(f"{self.name} has a {name!r} already; give {spec.__name__} another name")
        self._classes[name] = spec
        if _loading:
            self._plugins[name] = _loading[-1]
        return spec

    def name_of(self, spec: BaseModel) -> str:
        return str(getattr(spec, self.tag))

    def holds(self, spec: BaseModel) -> bool:
        """Whether a spec, or what a sweep file says of one, is a choice of this kind."""
        name = getattr(spec, self.tag, None)
        return name in self and isinstance(spec, (self.get(str(name)), self.written(self.get(str(name)))))

    def plugin_of(self, spec: BaseModel) -> Plugin | None:
        """The plug-in that a spec comes from, None for our own and for installed packages."""
        return self._plugins.get(self.name_of(spec))

    def identity(self, spec: Spec) -> dict[str, JsonValue]:
        """`Spec.identity`, with its name wherever that is not the default of the kind."""
        name = self.name_of(spec)
        return {**({} if name == self.default else {self.tag: name}), **spec.identity()}

    def _installed(self) -> dict[str, str]:
        return _entry_points(f"rfscale.{self.name}")

    # --- reading ------------------------------------------------------------------------------------------------------

    def chosen(self, value: object) -> str | None:
        """The name that a value of the sweep file chooses, known or not; None where it does not say."""
        if isinstance(value, str):
            return value
        given = value.get(self.tag, self.default or None) if isinstance(value, Mapping) else None
        return given if isinstance(given, str) else None

    def read(self, value: Any, info: ValidationInfo, written: bool = False) -> Any:
        """A spec of a mapping, or of a name alone; `written`: of what stands in a sweep file."""
        if isinstance(value, BaseModel):
            return value
        if isinstance(value, str):
            value = {self.tag: value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError("model_type", "not a mapping")
        name = self.chosen(value)
        if name is None or name not in self:
            raise PydanticCustomError(
                CHOICE, "not known", {"tag": self.tag, "given": value.get(self.tag, ...), "known": self.names()}
            )
        model = self.written(self.get(name)) if written else self.get(name)
        for key in value:
            if key not in model.model_fields:
                fields = [*([] if self.tag in model.model_fields else [self.tag]), *model.model_fields]
                having = [other for other in self.names() if key in self.written(self.get(other)).model_fields]
                raise PydanticCustomError(KEY, "unknown key", {"key": str(key), "fields": fields, "having": having})
        context = info.context if isinstance(info.context, Mapping) else {}
        return model.model_validate(self._located(model, {**value, self.tag: name}, context.get("folder")))

    def _located(self, model: type[BaseModel], value: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
        """Relative paths are relative to the sweep file, so that both can be moved together."""
        found = dict(value)
        for key, of in _path_fields(model).items():
            if folder is not None and of.is_path(found.get(key)):
                try:
                    found[key] = str((folder / expanded(found[key], f"{self.section}.{key}")).resolve())
                except PathError as error:
                    raise PydanticCustomError(PATH, "{error}", {"error": str(error)}) from error
        return found

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """As metadata of a field: `Annotated[DataSpec, DATA]`."""
        return _schema(self.read)

    # --- listing ------------------------------------------------------------------------------------------------------

    def table(self) -> list[dict[str, Any]]:
        """For each name its summary and its fields: key, default ("required" without one) and meaning."""
        rows = []
        for name in self.names():
            spec = self.get(name)
            fields = {
                key: {
                    "default": "required" if info.is_required() else json.dumps(info.default, default=str),
                    "meaning": info.description or "",
                }
                for key, info in self.written(spec).model_fields.items()
                if key != self.tag
            }
            rows.append({"name": name, "summary": _summary(spec), "fields": fields})
        return rows


@dataclass(frozen=True, eq=False)
class Written:
    """Metadata of a field that is read as a sweep file says it: `Annotated[Ladder, Written(BACKBONES)]`."""

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _schema(lambda value, info: self.kind.read(value, info, written=True))


def _schema(read: Callable[[Any, ValidationInfo], Any]) -> CoreSchema:
    dumped = core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True)
    return core_schema.with_info_plain_validator_function(read, serialization=dumped)


def _dumped(spec: BaseModel, info: core_schema.SerializationInfo) -> Any:
    return spec.model_dump(mode=info.mode, exclude_defaults=info.exclude_defaults)


@cache
def _entry_points(group: str) -> dict[str, str]:
    """What installed packages add; they are looked for once per process."""
    return {entry.name: entry.value for entry in entry_points(group=group)}


def _summary(spec: type[BaseModel]) -> str:
    return " ".join((spec.__doc__ or "").split("\n\n")[0].split())


# --- plug-ins ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plugin:
    """A file that adds choices: where it lies, and the SHA-256 of its text, which is part of the identity."""

    path: str
    sha256: str


_loading: list[Plugin] = []
_loaded: dict[Plugin, object] = {}
_allowed = [False]


@contextmanager
def allowing_plugins(allowed: bool = True) -> Iterator[None]:
    """While the block lasts, a file that a sweep or a trial names as its plug-in may run."""
    before, _allowed[0] = _allowed[0], allowed or _allowed[0]
    try:
        yield
    finally:
        _allowed[0] = before


def load_plugin(path: str, sha256: str | None = None) -> Plugin:
    """Run a plug-in, once per process and content. Raises PluginError where that is not allowed, where the file cannot
    be read or fails, and where it is not the one of `sha256`."""
    shown = cut(path, 200)
    if not _allowed[0]:
        raise PluginError(
            f"the plug-in {shown} is a program, and a sweep file alone never runs one; read it, and add "
            "--allow-plugins if you trust it"
        )
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise PluginError(f"cannot read the plug-in {shown}: {error.strerror}; correct its path") from error
    plugin = Plugin(path, hashlib.sha256(text).hexdigest())
    if sha256 is not None and plugin.sha256 != sha256:
        raise PluginError(f"the plug-in {shown} has changed since the trial was planned; plan the sweep again")
    if plugin in _loaded:
        return plugin
    if any(other.path == path for other in _loaded):
        raise PluginError(f"the plug-in {shown} has changed while this program runs; start it again")
    name = f"rfscale_plugin_{plugin.sha256[:12]}"
    source = importlib.util.spec_from_file_location(name, path)
    if source is None or source.loader is None:
        raise PluginError(f"the plug-in {shown} is no Python file; name one that ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(source)
    _loading.append(plugin)
    try:
        source.loader.exec_module(module)
    except RfscaleError:
        raise
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"the plug-in {shown} fails: {quoted(f'{type(error).__name__}: {error}')}") from error
    finally:
        _loading.pop()
    _loaded[plugin] = module
    return plugin
