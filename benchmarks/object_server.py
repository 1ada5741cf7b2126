"""An S3 server to try an object store against, on loopback: moto's, which speaks conditional writes, with faults.

    python benchmarks/object_server.py --port 9000        # prints its URL and what clients need in the environment

It holds the bucket `rfscale`, and all of it in memory. `PUT /_fault/error` has it answer 500 to everything,
`PUT /_fault/silent` not at all, and `PUT /_fault/none` as before.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "rfscale"
FAULTS = ("none", "error", "silent")


class ObjectServer:
    """The server, in threads of this process."""

    def __init__(self, port: int = 0) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.fault, self.requests = "none", 0
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", port, self._answer, threaded=True)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this server has in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> ObjectServer:
        self._thread.start()
        self.ask("/" + BUCKET)
        return self

    def __exit__(self, *_: object) -> None:
        self.fault = "none"
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def mend(self) -> None:
        """No fault any more."""
        self.fault = "none"

    def ask(self, path: str) -> None:
        """A bare PUT."""
        urllib.request.urlopen(urllib.request.Request(self.address + path, method="PUT"), timeout=10).close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests += 1
        path = str(environ["PATH_INFO"])
        if path.startswith("/_fault/"):
            self.fault = path.rpartition("/")[2]
            start("200 OK" if self.fault in FAULTS else "404 Not Found", [("Content-Length", "0")])
            return [b""]
        while self.fault == "silent":
            time.sleep(0.1)
        if self.fault == "error":
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=9000)
    with ObjectServer(parser.parse_args().port) as server:
        print(json.dumps({"url": f"s3://{BUCKET}", "environment": server.environment}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
