"""MLflow as companies host it: whatever its own client can reach works, and no secret is printed or stored."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import re
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mlflow import MlflowClient
from test_store_paths import trained
from test_tracking import Server, free_port, running_server
from typer.testing import CliRunner, Result

from analysis.table.read import read_sweep
from analysis.table.store import TrackingError, connect
from rfscale import names
from rfscale.cli import app
from rfscale.run.tracking import mirror as mirror_module
from rfscale.run.tracking.mirror import Mirror
from rfscale.spec.sweep import Sweep
from rfscale.store import Store

__all__ = ["running_server", "trained"]  # fixtures

SECRET = "s3cr3t-hunter2"
LOGIN = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()


class Proxy:
    """A reverse proxy before a real MLflow server: without /health, under a path, for those who may."""

    def __init__(self, upstream: str, allowed: str = "", certificate: Path | None = None) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self) -> None:
                asked.append(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if allowed and self.headers.get("Authorization") != allowed:
                    return self._send(401, b"<html>who are you?</html>", "text/html")
                if not self.path.startswith("/team/api/"):
                    return self._send(404, b"<html>nothing here</html>", "text/html")
                kind = {"Content-Type": self.headers["Content-Type"]} if self.headers["Content-Type"] else {}
                there = upstream + self.path.removeprefix("/team")
                got = requests.request(self.command, there, data=body, headers=kind, timeout=60)
                return self._send(got.status_code, got.content, got.headers.get("Content-Type", "text/plain"))

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


StartProxy = Callable[..., Proxy]


@pytest.fixture
def proxy(running_server: Server) -> Iterator[StartProxy]:
    started: list[Proxy] = []

    def start(allowed: str = "", certificate: Path | None = None) -> Proxy:
        started.append(Proxy(running_server.uri, allowed, certificate))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(autouse=True)
def _no_login_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN", "INSECURE_TLS", "SERVER_CERT_PATH"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_secret_nowhere(store: Path, *results: Result) -> None:
    for result in results:
        assert SECRET not in result.output
        assert LOGIN.split()[1] not in result.output
    for path in store.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


# --- what works -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login", ["environment", "address", "token"])
def test_a_sweep_is_logged_and_reported_behind_a_login_and_no_secret_is_seen(
    login: str, trained: tuple[Sweep, Path, Path], proxy: StartProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, path, made = trained
    store = shutil.copytree(made, tmp_path / "store")
    there = proxy(f"Bearer {SECRET}" if login == "token" else LOGIN)
    in_address = f"me:{SECRET}@" if login == "address" else ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{in_address}{there.host}/team")
    if login == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    if login == "token":
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    ran = invoke("run", path, "--store", store)
    assert ran.exit_code == 0, ran.output
    assert (store / "reports" / "mini" / "report.html").is_file()
    compared, opened = invoke("compare", path, "--store", store), invoke("ui", "--store", store)
    assert (compared.exit_code, opened.exit_code) == (0, 0), compared.output + opened.output
    for text in (ran.output, compared.output):
        assert "View run" not in text
        assert " INFO " not in text
    assert there.host in opened.output
    assert_secret_nowhere(store, ran, compared, opened)
    assert not [asked for asked in there.asked if not asked.startswith("/team/api/")], "MLflow's own calls alone"
    client = MlflowClient(f"http://{in_address}{there.host}/team")
    experiment = client.get_experiment_by_name(sweep.name)
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        assert SECRET not in str(run.to_dictionary())


@pytest.mark.parametrize("trust", ["its certificate is given", "insecure"])
def test_a_server_with_its_own_certificate(
    trust: str, trained: tuple[Sweep, Path, Path], proxy: StartProxy, certificate: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sweep, _, made = trained
    store = Store(shutil.copytree(made, tmp_path / "store"))
    address = f"https://{proxy(certificate=certificate).host}/team"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(TrackingError, match=r"the certificate of the MLflow server https://.* is not trusted here"):
        connect(address)
    if trust == "insecure":
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
    Mirror(sweep, store).finish()
    assert list(read_sweep(address, sweep.name).trials["trial_id"].unique()) == [sweep.trials[0].trial_id]


def test_two_stores_on_one_server_both_have_their_report(
    trained: tuple[Sweep, Path, Path], running_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, path, made = trained
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running_server.uri)
    for name in ("one", "two"):
        store = shutil.copytree(made, tmp_path / name)
        done = invoke("run", path, "--store", store)
        assert done.exit_code == 0, done.output
        assert (store / "reports" / "mini" / "report.html").is_file()
    table = read_sweep(running_server.uri, sweep.name)
    assert len(table.trials) == 1
    assert table.rejected["reason"].str.contains("a second run of this trial").sum() >= 1
    client = MlflowClient(running_server.uri)
    experiment = client.get_experiment_by_name(sweep.name)
    assert experiment is not None
    tags = {run.data.tags[names.TAG_STORE] for run in client.search_runs([experiment.experiment_id])}
    assert {Store(tmp_path / name).identity() for name in ("one", "two")} <= tags


# --- what does not ----------------------------------------------------------------------------------------------------


def refused(path: Path, store: Path) -> str:
    """What `run` and `report` say: one sentence, the same, with nothing written."""
    before = {file: file.stat().st_mtime_ns for file in store.rglob("*")}
    ran, reported = invoke("run", path, "--store", store), invoke("report", path, "--store", store)
    assert (ran.exit_code, reported.exit_code) == (2, 2), ran.output + reported.output
    assert ran.stdout == reported.stdout == ""
    assert ran.stderr == reported.stderr
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert_secret_nowhere(store, ran, reported)
    assert {file: file.stat().st_mtime_ns for file in store.rglob("*")} == before
    return ran.stderr


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://me:wrong@{host}/team", "refuses the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("http://me:{secret}@{host}/elsewhere", "has no MLflow under this path; correct MLFLOW_TRACKING_URI"),
        ("http://me:{secret}/x@{host}", "in the login of an address, write the letters"),
        ("postgresql://me:a@b:{secret}@h:1/mlflow", "in the login of an address, write the letters"),
        ("nonsense://me:{secret}@here", "cannot be used"),
    ],
)
def test_what_cannot_be_reached_is_one_sentence_without_the_password(
    address: str, sentence: str, trained: tuple[Sweep, Path, Path], proxy: StartProxy, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, path, made = trained
    store = shutil.copytree(made, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    uri = address.format(secret=SECRET, dead=free_port(), host=proxy(LOGIN).host)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert re.search(sentence, refused(path, store))


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://me:{secret}@127.0.0.1:{dead}", "does not answer"),
        ("http://me:{secret}@no-such-host.invalid", "does not answer"),
        ("https://me:{secret}@{host}/team", "does not answer"),
        ("postgresql://me:{secret}@127.0.0.1:{dead}/mlflow", r"postgresql://\*\*\*@127.0.0.1"),
        ("http://me:{secret}:x@{host}", "does not answer|refuses|no MLflow|in the login"),
    ],
)
def test_what_does_not_answer_is_said_without_the_password_and_the_store_is_read(
    address: str, sentence: str, trained: tuple[Sweep, Path, Path], proxy: StartProxy, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, path, made = trained
    store = shutil.copytree(made, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mirror_module, "LAST_PATIENCE_SECONDS", 0.0)
    uri = address.format(secret=SECRET, dead=free_port(), host=proxy(LOGIN).host)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ran, reported = invoke("run", path, "--store", store), invoke("report", path, "--store", store)
    for done in (ran, reported):
        assert re.search(sentence, done.output)
    assert_secret_nowhere(store, ran, reported)
    if "MLflow is asked again" in ran.output:  # not where an address is none, or a driver is missing
        assert (ran.exit_code, reported.exit_code) == (0, 0), ran.output
        assert "the same command mirrors them when it is back" in ran.output
        assert "These numbers are read from" in reported.output
