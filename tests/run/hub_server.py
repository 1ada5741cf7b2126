"""What the Hugging Face hub answers to whoever downloads a model: its API of models and trees, small files as they are,
and large ones from another address, with the headers that its client reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """`repositories`: name -> folder; `gated`: those that need a login; `sent`: files that were sent; `fails`: the
    ending of files that it breaks off in the middle, and has no more of."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.gated = repositories, gated
        self.sent: list[str] = []
        self.fails = ""
        self.broken: set[Path] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "large":  # where the hub sends one for what lies in LFS
            return self._file(self.server.repositories[f"{parts[1]}/{parts[2]}"].joinpath(*parts[3:]))
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        folder = self.server.repositories.get(f"{owner}/{name}")
        if folder is None:
            return self._refuse("RepoNotFound", "Repository not found")
        if api:
            return self._api(f"{owner}/{name}", folder, rest)
        assert rest[0] == "resolve", self.path
        if f"{owner}/{name}" in self.server.gated:
            return self._refuse("GatedRepo", "Access to this model is restricted")
        path = folder.joinpath(*rest[2:])
        return self._resolved(f"{owner}/{name}", path, "/".join(rest[2:]))

    def _api(self, name: str, folder: Path, rest: list[str]) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            listed: list[dict[str, Any]] = []
            for path in files:
                one: dict[str, Any] = {"type": "file", "path": str(path.relative_to(folder)), **self._size(path)}
                if path.suffix == ".safetensors":
                    one["lfs"] = {"oid": sha256(path), "size": path.stat().st_size, "pointerSize": 134}
                listed.append(one)
            return self._json(listed)
        assert not rest or rest == ["revision", "main"], self.path
        siblings = [{"rfilename": str(path.relative_to(folder))} for path in files]
        return self._json({"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [],
                           "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip

    def _size(self, path: Path) -> dict[str, Any]:
        content = path.read_bytes()
        return {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _resolved(self, name: str, path: Path, inner: str) -> None:
        if path.suffix == ".safetensors":
            self._answer(302, b"", {
                "Location": f"http://localhost:{self.server.server_address[1]}/large/{name}/{inner}",  # another host
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{sha256(path)}"', "X-Linked-Size": str(path.stat().st_size),
            })  # fmt: skip
        else:
            self._file(path, {"X-Repo-Commit": COMMIT, "ETag": f'"{self._size(path)["oid"]}"'})

    def _file(self, path: Path, headers: dict[str, str] | None = None) -> None:
        content = path.read_bytes()
        if self.command == "GET":
            self.server.sent.append(path.name)
            if self.server.fails and path.name.endswith(self.server.fails):
                self.close_connection = True
                if path in self.server.broken:  # its client goes on where it was, and asks as long as anything comes
                    return self._answer(503, b"", {})
                self.server.broken.add(path)
                return self._answer(200, content, headers or {}, sent=len(content) // 2)
        return self._answer(200, content, headers or {})

    def _refuse(self, code: str, message: str) -> None:
        self._answer(401, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _json(self, found: Any) -> None:
        self._answer(200, json.dumps(found).encode(), {"Content-Type": "application/json", "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, content: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:sent])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def serving(repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[Hub]:
    with Hub(repositories, gated) as hub:
        thread = Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
