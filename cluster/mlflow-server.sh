#!/usr/bin/env bash
# An MLflow server. Without arguments: on loopback, in ./mlflow-server, for one machine.
#   MLFLOW_BACKEND=postgresql+psycopg://USER@HOST/mlflow HOST=0.0.0.0 ALLOWED_HOSTS=mlflow.lan:5000 cluster/mlflow-server.sh
# is one for a team, and for a cluster of several machines: PostgreSQL, because many write at once (its password belongs in
# ~/.pgpass; `pip install 'psycopg[binary]'`). MLflow asks nobody who
# they are: keep the port inside a network you trust, or put a proxy that does in front of it.
set -euo pipefail
folder=${FOLDER:-$PWD/mlflow-server}
host=${HOST:-127.0.0.1}
port=${PORT:-5000}
mkdir -p "$folder"
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
# Both addresses are relative to the folder, whatever letters its name has; the one of the database is no argument, which
# everybody on the machine could read.
export MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND:-sqlite:///mlflow.db}
arguments=(--host "$host" --port "$port" --workers "${WORKERS:-2}" --artifacts-destination ./artifacts)
if [[ -n ${ALLOWED_HOSTS:-} ]]; then arguments+=(--allowed-hosts "$ALLOWED_HOSTS"); fi
cd "$folder"
exec "${MLFLOW:-mlflow}" server "${arguments[@]}"
