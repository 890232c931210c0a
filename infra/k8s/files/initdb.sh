#!/usr/bin/env bash
# Runs once, in the container of PostgreSQL: databases of MLflow and Prefect, each with an owner of its own.
set -euo pipefail
for owner in mlflow prefect; do
  psql -v ON_ERROR_STOP=1 -v owner="$owner" -v password="$(cat "/run/secrets/${owner}-database")" --username postgres <<'SQL'
CREATE ROLE :"owner" LOGIN PASSWORD :'password';
CREATE DATABASE :"owner" OWNER :"owner";
REVOKE ALL ON DATABASE :"owner" FROM PUBLIC;
SQL
done
psql -v ON_ERROR_STOP=1 --username postgres <<'SQL'
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE ALL ON DATABASE mlflow_auth FROM PUBLIC;
SQL
