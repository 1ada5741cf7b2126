"""The cluster files: held to the schemas they are read by, and the README's way walked through `ray job submit`."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from jsonschema import Draft202012Validator
from test_launch import SETTINGS, free_port, marked, wait_until

from rfscale import names
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
BIN = Path(sys.executable).parent


def read(file: str) -> Any:
    return yaml.safe_load((CLUSTER / file).read_text())


RAY_UP = ("ray-cluster.yaml", "ray-aws.yaml", "ray-gcp.yaml")


@pytest.mark.parametrize("file", RAY_UP)
def test_the_ray_up_files_fit_rays_own_schema(file: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(file)
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match=r"no_such_key|Additional properties"):
        validate_config(prepare_config({**config, "no_such_key": 1}))
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [line for line in starts if "ray start" in line]
    assert len(started) == 2
    everywhere = " ".join(config["setup_commands"]) if "~/env" in started[0] else ""
    for line in started:
        assert "RAY_AUTH_MODE=token" in line + everywhere
        assert "RAY_USAGE_STATS_ENABLED=0" in line + everywhere
    assert "--dashboard-host=127.0.0.1" in started[0]


def schema(name: str) -> Any:
    return json.loads(gzip.decompress((Path(__file__).parent / "schemas" / f"{name}.json.gz").read_bytes()))


def strict(schema: Any) -> Any:
    """An object of a CRD has the fields that are named and no others: Kubernetes would drop those in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made and made.get("type") == "object" and "x-kubernetes-preserve-unknown-fields" not in made:
        made.setdefault("additionalProperties", False)
    return made


SCHEMAS = {
    "rayjob.yaml": ("kuberay-rayjob", ("spec", "rayClusterSpec", "headGroupSpec")),
    "raycluster.yaml": ("kuberay-raycluster", ("spec", "headGroupSpec", "template", "spec")),
    "compose.yaml": ("compose", ("services", "head")),
    "sky.yaml": ("skypilot", ("resources",)),
}


@pytest.mark.parametrize("file", SCHEMAS)
def test_the_files_fit_the_schema_of_what_reads_them(file: str) -> None:
    name, place = SCHEMAS[file]
    found = strict(schema(name)) if name.startswith("kuberay") else schema(name)
    validator, config = Draft202012Validator(found), read(file)
    assert [(list(error.path), error.message) for error in validator.iter_errors(config)] == []
    spoilt = json.loads(json.dumps(config))
    at = spoilt
    for key in place:
        at = at[key]
    at["no_such_key"] = 1
    assert not validator.is_valid(spoilt)


def test_no_server_listens_beyond_this_machine_and_no_file_holds_a_secret() -> None:
    services = read("compose.yaml")["services"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))
    rays = [service for service in services.values() if "ray start" in str(service.get("command"))]
    assert len(rays) == 2
    assert all(service["environment"]["RAY_AUTH_MODE"] == "token" for service in rays)
    assert read("sky.yaml")["secrets"] == {"RAY_AUTH_TOKEN": None}
    for file in CLUSTER.iterdir():
        for line in file.read_text().splitlines():
            found = re.findall(r"(?<!\{)\b[A-Z_]*(?:TOKEN|PASSWORD|SECRET_ACCESS_KEY)['\"]?\s*[:=]\s*(\S+)", line)
            assert all(value.startswith(("${", "$(", "null", "$RAY")) for value in found), f"{file.name}: {line}"


@pytest.mark.parametrize("file", ["rayjob.yaml", "raycluster.yaml"])
def test_the_kuberay_files_share_one_store_and_leave_with_a_checkpoint(file: str) -> None:
    spec = read(file)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert set(container["resources"]) == {"requests", "limits"}
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        (mount,) = container["volumeMounts"]
        assert mount["mountPath"] == "/shared"
        assert [v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v] == [mount["name"]]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > 30


def test_the_kuberay_job_ends_and_is_tried_again() -> None:
    spec = read("rayjob.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert "MLFLOW_TRACKING_URI" in yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert "--store /shared/" in spec["entrypoint"]


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (apt-get install shellcheck)"
)
@pytest.mark.parametrize("script", ["slurm.sbatch", "mlflow-server.sh"])
def test_shellcheck_finds_nothing(script: str) -> None:
    done = subprocess.run(["shellcheck", str(CLUSTER / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["slurm.sbatch", "mlflow-server.sh"])
def test_the_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)
    assert "set -euo pipefail" in (CLUSTER / script).read_text()
    assert os.access(CLUSTER / script, os.X_OK)


def test_the_image_is_pinned() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "-c constraints.txt" in text
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    assert all((ROOT / source).exists() for line in copied for source in line.split())


def test_every_file_is_in_the_readme_and_every_sweep_that_it_names_exists() -> None:
    text = (CLUSTER / "README.md").read_text()
    assert all(f"`{file.name}`" in text for file in CLUSTER.iterdir() if file.name != "README.md")
    everything = "".join(file.read_text() for file in CLUSTER.iterdir())
    sweeps = set(re.findall(r"experiments/\w+\.yaml", everything))
    assert sweeps
    assert all((ROOT / sweep).exists() for sweep in sweeps)


@pytest.mark.slow
def test_the_smoke_sweep_goes_through_ray_job_submit(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    mark, port, dashboard = f"rfscale-{uuid.uuid4().hex}", free_port(), free_port()
    address = f"http://127.0.0.1:{dashboard}"
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **SETTINGS, "PATH": path, "RFSCALE_MARK": mark, "RAY_ADDRESS": address}
    environment.pop("MLFLOW_TRACKING_URI", None)
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, capture_output=True, check=True)
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2", "--disable-usage-stats"]
    log = tmp_path / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=environment)
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text() or head.poll() is not None)
        assert head.poll() is None, log.read_text()
        assert requests.get(f"{address}/api/jobs/", timeout=10).status_code == 401  # without the token
        store = tmp_path / "store"
        submit = [
            *(str(BIN / "ray"), "job", "submit", "--working-dir", "."),
            *("--runtime-env-json", '{"excludes": [".venv", ".git", "runs"]}', "--"),
            *("rfscale", "run", "experiments/smoke.yaml", "--address", "auto", "--store", str(store)),
        ]
        for _ in range(30):  # Ray refuses jobs in the seconds before its agent is up, and asks to submit again
            job = subprocess.run(submit, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if "No available agent to submit job" not in job.stderr:
                break
            time.sleep(2)
        assert job.returncode == 0, job.stdout + job.stderr
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(20)
        finally:
            for pid in marked(mark):
                os.kill(pid, signal.SIGKILL)
    sweep = load_sweep(ROOT / "experiments" / "smoke.yaml")
    folders = [Store(store).trial(t.trial_id) for t in sweep.trials]
    assert [f.state().status for f in folders] == [names.FINISHED] * 6
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags[names.TAG_TRIAL_ID] for run in runs} == {t.trial_id for t in sweep.trials}
    assert len(runs) == 6
    assert all(run.info.status == "FINISHED" and names.VAL_LOSS in run.data.metrics for run in runs)
