"""The page that asks, on loopback only.

    GET  /?key=<key>       the page            GET /page.css, /page.js    its parts
    GET  /image/<token>    one image of what stands on a page; the token is random and new for every showing
    POST /state            {rater}                                -> what to ask
    POST /vote             {rater, showing, question, choice}     -> what to ask next
    POST /undo             {rater, showing, question}             -> that question again, if it was the last answered

Nothing that leaves here tells the models apart: no trial, no formulation, no file name, no time of a file. Other pages
in the same browser can neither read (the Host header must be ours, which stops DNS rebinding) nor write (POST needs
JSON and a token that only our page holds). Nor can other people on the same machine, whom loopback does not keep out:
the page, and with it the token, is given only to who knows the key in the address that the terminal shows.
"""

from __future__ import annotations

import errno
import hmac
import json
import os
import secrets
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from rfscale.rating.sitting import Sitting
from rfscale.rating.votes import RatingError

HOST = "127.0.0.1"
TOKEN_HEADER = "X-Rating-Token"
LONGEST_REQUEST = 4096  # bytes
LONGEST_NAME = 60

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PARTS = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}


class RatingServer(ThreadingTCPServer):
    """Serves one sitting. The port is taken at once; requests are answered between `open` and the end of `with`."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int) -> None:
        """Port 0 is any free one. Raises RatingError where the port is in use or not allowed."""
        super().__init__((HOST, port), _Handler, bind_and_activate=False)
        self.token = secrets.token_urlsafe(32)
        self._wanted = port
        self._take(self.server_bind)
        self.port = int(self.server_address[1])
        self.hosts = {f"{name}:{self.port}" for name in (HOST, "localhost")} | (
            {HOST, "localhost"} if self.port == 80 else set()
        )

    def open(self, sitting: Sitting, images: Mapping[tuple[str, int], Path], key: str) -> None:
        """Begin to answer: images holds the PNG of each trial and prompt, `key` is what the page is asked for with."""
        self.sitting, self.images, self.key = sitting, images, key
        self._take(self.server_activate)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"{self.origin}/?key={self.key}"

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error of ours; all else is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def _take(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            self.server_close()
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise RatingError(
                f"port {self._wanted} {reason}; choose another with --port, 0 for any free one"
            ) from error


def kept_key(path: Path) -> str:
    """The key of the page: made once, so that a page can be reloaded after the server was started again.

    The file can be read by its owner alone. Raises OSError.
    """
    with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(16))
    return path.read_text()


class _Refused(Exception):
    """A request that gets no answer but this status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    timeout = 30.0  # seconds for a request to arrive

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, respond: Callable[[], tuple[str, bytes]]) -> None:
        try:
            if self.headers.get("Host") not in self.server.hosts:
                raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, f"open {self.server.origin}")
            kind, body = self._reach(respond)
            self._send(HTTPStatus.OK, kind, body)
        except _Refused as refused:
            self._send(refused.status, *_json({"error": str(refused)}))
        except RatingError as error:
            self._send(HTTPStatus.CONFLICT, *_json({"error": str(error)}))

    def _reach(self, respond: Callable[[], tuple[str, bytes]]) -> tuple[str, bytes]:
        """Where the disk or the votes fail, the terminal gets the details and the page a sentence without any path."""
        try:
            return respond()
        except (ConnectionError, TimeoutError):  # the browser went away
            raise
        except (OSError, sqlite3.Error) as error:
            print(f"rfscale: {self.path.split('/')[1]}: {error}", file=sys.stderr, flush=True)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise _Refused(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                f"the server cannot reach its votes or images ({reason}); see its terminal, then try again",
            ) from error

    def _get(self) -> tuple[str, bytes]:
        if self.path.partition("?")[0] == "/":
            if not hmac.compare_digest(self.path.encode(), f"/?key={self.server.key}".encode()):
                raise _Refused(HTTPStatus.FORBIDDEN, "open the whole address that the terminal shows, with its key")
            page = _part("/page.html").replace(b"{{token}}", self.server.token.encode())
            return "text/html; charset=utf-8", page
        if self.path in _PARTS:
            return _PARTS[self.path], _part(self.path)
        shown = self.server.sitting.image(self.path.removeprefix("/image/"))
        if shown is None:
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        return "image/png", self.server.images[shown].read_bytes()

    def _post(self) -> tuple[str, bytes]:
        body = self._body()  # before any refusal: closing with unread input would cut the answer off
        if not secrets.compare_digest(self.headers.get(TOKEN_HEADER, "").encode(), self.server.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "the server was started again; reload the page")
        if self.headers.get("Origin", self.server.origin) not in {f"http://{h}" for h in self.server.hosts}:
            raise _Refused(HTTPStatus.FORBIDDEN, "this page may not vote")
        given = self._object(body)
        sitting, rater = self.server.sitting, _rater(given)
        if self.path == "/state":
            return _json(sitting.state(rater))
        if self.path == "/vote":
            showing, question, choice = (_text(given, key) for key in ("showing", "question", "choice"))
            return _json(sitting.vote(rater, showing, question, choice))
        if self.path == "/undo":
            showing, question = (_text(given, key) for key in ("showing", "question"))
            return _json(sitting.undo(rater, showing, question))
        raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _body(self) -> bytes:
        given = self.headers.get("Content-Length", "")
        try:
            length = int(given) if given.isdecimal() else -1
        except ValueError:  # Python reads no number of thousands of digits
            length = -1
        if length < 0:
            raise _Refused(HTTPStatus.BAD_REQUEST, "say how many bytes are sent")
        if length > LONGEST_REQUEST:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {LONGEST_REQUEST} bytes")
        return self.rfile.read(length)

    def _object(self, body: bytes) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON")
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise _Refused(HTTPStatus.BAD_REQUEST, "this is no JSON") from None
        if not isinstance(given, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "send a JSON object")
        return given

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "rfscale"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed: the terminal is for what the person who started the command needs."""


def _rater(given: Mapping[str, Any]) -> str:
    """The name, without spaces around and within more than one."""
    name = " ".join(_text(given, "rater").split())
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise _Refused(HTTPStatus.BAD_REQUEST, f"give a name of 1 to {LONGEST_NAME} characters")
    return name


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str):
        raise _Refused(HTTPStatus.BAD_REQUEST, f"the request needs {key!r}, a string")
    return value


def _json(value: Mapping[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


def _part(path: str) -> bytes:
    return files("rfscale.rating").joinpath(path.removeprefix("/")).read_bytes()
