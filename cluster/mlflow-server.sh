#!/usr/bin/env bash
# An MLflow server. Without arguments: on loopback, in ./mlflow-server, for one machine.
#   MLFLOW_BACKEND=postgresql://USER@HOST/mlflow HOST=0.0.0.0 ALLOWED_HOSTS=mlflow.lan:5000 cluster/mlflow-server.sh
# is one for a team: Postgres, because many write at once (its password belongs in ~/.pgpass). MLflow asks nobody who
# they are: keep the port inside a network you trust, or put a proxy that does in front of it.
set -euo pipefail
folder=${FOLDER:-$PWD/mlflow-server}
host=${HOST:-127.0.0.1}
port=${PORT:-5000}
mkdir -p "$folder"
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
arguments=(--host "$host" --port "$port" --workers "${WORKERS:-2}" --artifacts-destination "$folder/artifacts")
arguments+=(--backend-store-uri "${MLFLOW_BACKEND:-sqlite:///$folder/mlflow.db}")
if [[ -n ${ALLOWED_HOSTS:-} ]]; then arguments+=(--allowed-hosts "$ALLOWED_HOSTS"); fi
cd "$folder"
exec "${MLFLOW:-mlflow}" server "${arguments[@]}"
