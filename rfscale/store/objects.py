"""The port on an object store: s3://, gs:// and az://, through obstore, which speaks conditional writes to all three.

Credentials, regions and endpoints are found as the clients of each cloud find them: by the environment. Every call is
tried again while the store answers 5xx or nothing, with growing pauses; what it refuses is refused at once.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rfscale.names import one_line
from rfscale.store.files import StoreError, replacing
from rfscale.store.port import Found, Listed

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
PATIENCE_SECONDS = 1800.0
"""For which a worker asks a store that does not answer: no trial fails for an outage that is shorter."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
"""Between two tries, in seconds. The longest is far below the time that a lease is watched before it is taken over."""
CLIENT = {"timeout": "60s", "connect_timeout": "5s"}

T = TypeVar("T")


def is_url(text: str) -> bool:
    """Whether a store is given by its URL and not as a folder."""
    return "://" in text


class ObjectPort:
    """A `Port` on an object store. `patience`: seconds for which a store that does not answer is asked again."""

    def __init__(self, url: str, patience: float = PATIENCE_SECONDS) -> None:
        """Asks nothing yet. Raises StoreError for a URL that names no object store, and without obstore."""
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES or not rest.strip("/"):
            allowed = "s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix"
            raise StoreError(f"{url} is no store: give a folder, or {allowed}")
        try:
            import obstore
            from obstore import exceptions
            from obstore.store import from_url
        except ImportError as error:
            raise StoreError(
                f"the store {url} needs the package obstore: pip install 'rfscale[object-store]', or give a folder"
            ) from error
        self._url, self.patience, self._api, self._errors = url.rstrip("/"), patience, obstore, exceptions
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")  # a server of one's own, named as such
        try:
            opening: Any = from_url  # its types know the options of each cloud apart
            self._store: ObjectStore = opening(
                self._url,
                client_options={**CLIENT, "allow_http": plain},
                retry_config={"max_retries": 0},  # those below say what they wait for, and check what was written
            )
        except Exception as error:
            raise StoreError(f"{url} is no store that can be opened: {one_line(error, 200)}") from error

    @property
    def address(self) -> str:
        return self._url

    def get(self, key: str) -> Found | None:
        def ask() -> Found | None:
            try:
                got = self._api.get(self._store, key)
                return Found(bytes(got.bytes()), _version(got.meta), got.meta["last_modified"].timestamp())
            except (self._errors.NotFoundError, FileNotFoundError):
                return None

        return self._again(ask)

    def fetch(self, key: str, path: Path) -> bool:
        def ask() -> bool:
            try:
                got = self._api.get(self._store, key)
            except (self._errors.NotFoundError, FileNotFoundError):
                return False
            with replacing(path) as temporary, open(temporary, "wb") as file:
                for part in got.stream():
                    file.write(part)
            return True

        return self._again(ask)

    def put(self, key: str, data: bytes | Path) -> None:
        self._again(lambda: self._api.put(self._store, key, data))

    def list(self, prefix: str) -> list[Listed]:
        def ask() -> list[Listed]:
            return [
                Listed(one["path"], one["size"], _version(one), one["last_modified"].timestamp())
                for some in self._api.list(self._store, prefix)
                for one in some
            ]

        return sorted(self._again(ask), key=lambda one: one.key)

    def create(self, key: str, data: bytes) -> str | None:
        return self._conditional(key, data, "create")

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        e_tag, _, number = version.partition(" ")
        mode = {name: value for name, value in (("e_tag", e_tag), ("version", number)) if value}
        return self._conditional(key, data, mode)

    def delete(self, keys: Iterable[str]) -> None:
        if given := list(keys):
            self._again(lambda: self._api.delete(self._store, given))

    def _conditional(self, key: str, data: bytes, mode: Any) -> str | None:
        errors = self._errors
        refused = (errors.AlreadyExistsError, errors.PreconditionError, errors.NotFoundError, FileExistsError)
        tries = 0

        def ask() -> str | None:
            nonlocal tries
            tries += 1
            try:
                return _version(self._api.put(self._store, key, data, mode=mode, use_multipart=False))
            except (*refused, FileNotFoundError):
                return None

        version = self._again(ask)
        if version is None and tries > 1:  # an earlier try may have been heard, and its answer lost
            found = self.get(key)
            version = found.version if found is not None and found.data == data else None
        return version

    def _again(self, ask: Callable[[], T]) -> T:
        """What `ask` returns, once the store answers. Raises StoreError."""
        errors, deadline, pause = self._errors, time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                return ask()
            except (errors.PermissionDeniedError, errors.UnauthenticatedError, PermissionError) as error:
                hint = "check the credentials in the environment and what they may do"
                raise StoreError(f"the store {self._url} refuses it ({one_line(error, 200)}); {hint}") from error
            except (errors.NotFoundError, FileNotFoundError) as error:
                raise StoreError(f"there is no store {self._url} ({one_line(error, 200)}); make the bucket") from error
            except (errors.BaseError, TimeoutError, ConnectionError) as error:
                if time.monotonic() + pause > deadline:
                    why = one_line(error, 200)
                    raise StoreError(f"the store {self._url} does not answer ({why}); try again later") from error
            time.sleep(pause * random.uniform(0.7, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)


def _version(said: Any) -> str:
    """What the store calls the version of an object: its ETag, and its number where the store counts them."""
    return " ".join(part for part in (said["e_tag"], said["version"]) if part)
