"""The cluster files: held to the schemas they are read by, and the README's way walked through `ray job submit`."""

from __future__ import annotations

import os
import re
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
from test_launch import SETTINGS, free_port, marked, wait_until

from rfscale import names
from rfscale.spec.sweep_file import load_sweep
from rfscale.store import Store

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
BIN = Path(sys.executable).parent


def read(file: str) -> Any:
    return yaml.safe_load((CLUSTER / file).read_text())


def test_the_ray_up_file_fits_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read("ray-cluster.yaml")
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match=r"no_such_key|Additional properties"):
        validate_config(prepare_config({**config, "no_such_key": 1}))
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [line for line in starts if "ray start" in line]
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token" in line and "RAY_USAGE_STATS_ENABLED=0" in line for line in started)
    assert "--dashboard-host=127.0.0.1" in started[0]


def test_the_kuberay_job_ends_is_tried_again_and_shares_one_store() -> None:
    job = read("rayjob.yaml")
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert "MLFLOW_TRACKING_URI" in yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    store = Path(spec["entrypoint"].split("--store ")[1])
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert set(container["resources"]) == {"requests", "limits"}
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        (mount,) = container["volumeMounts"]
        assert Path(mount["mountPath"]) in store.parents
        assert [v["name"] for v in pod["volumes"] if "persistentVolumeClaim" in v] == [mount["name"]]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


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
