"""MLflow's server with its basic-auth app, Prefect's server with a key, and the process that runs scheduled flows."""

import base64
import json
import sys
import urllib.error
import urllib.request

from infra.services import processes
from infra.services.layout import HOST, Layout, private, variables
from tasks.stage.errors import PolmError


def start_mlflow(layout: Layout) -> bool:
    """Start MLflow on PostgreSQL and the store; returns whether it had to be started.

    Raises:
        PolmError: a package is missing, or the port is taken.
    """
    try:
        import boto3  # noqa: F401
        import flask_wtf  # noqa: F401
    except ImportError as e:
        raise PolmError(f"{e.name} is missing, which MLflow's server needs; `infra/services/setup.sh .venv`") from None
    config = layout.home / "mlflow_auth.ini"
    private(
        config,
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = {layout.database('postgresql', 'mlflow', 'mlflow_database', 'mlflow_auth')}\n"
        f"admin_username = admin\nadmin_password = {layout.secrets['mlflow_admin']}\n",
    )
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", HOST, "--workers", "1"]
    command += ["--port", str(layout.port("mlflow"))]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": layout.database("postgresql", "mlflow", "mlflow_database", "mlflow"),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
        "MLFLOW_S3_ENDPOINT_URL": layout.url("store"),
        "AWS_ACCESS_KEY_ID": "mlflow",
        "AWS_SECRET_ACCESS_KEY": layout.secrets["store_mlflow"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": layout.secrets["mlflow_session"],
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": "",
    }
    return processes.start(layout, "mlflow", command, [layout.port("mlflow")], environment)


def create_user(layout: Layout) -> None:
    """Make MLflow's user `polm`, who is no administrator, unless there is one. Raises PolmError when it cannot be."""
    url = f"{layout.url('mlflow')}/api/2.0/mlflow/users"
    key = base64.b64encode(f"admin:{layout.secrets['mlflow_admin']}".encode()).decode()
    body = json.dumps({"username": "polm", "password": layout.secrets["mlflow"]}).encode()
    headers = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # by no proxy of the environment
    for request in (
        urllib.request.Request(f"{url}/get?username=polm", headers=headers),
        urllib.request.Request(f"{url}/create", body, headers),
    ):
        try:
            direct.open(request, timeout=30).close()
            return
        except urllib.error.HTTPError as e:
            code = e.code
    raise PolmError(f"MLflow's user was not made ({code}); see {layout.log('mlflow')}")


def start_prefect(layout: Layout) -> bool:
    """Start Prefect's server on PostgreSQL, behind its key and closed to other sites' pages; returns whether it had to.

    Raises:
        PolmError: the port is taken.
    """
    environment = {
        "PREFECT_HOME": str(layout.home / "prefect"),
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(layout.port("prefect")),
        "PREFECT_SERVER_API_AUTH_STRING": variables(layout)["PREFECT_API_AUTH_STRING"],
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": layout.database(
            "postgresql+asyncpg", "prefect", "prefect_database", "prefect"
        ),
        "PREFECT_UI_API_URL": f"{layout.url('prefect')}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": "",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "flows.services.prefect_server"]
    return processes.start(layout, "prefect", command, [layout.port("prefect")], environment)


def start_worker(layout: Layout, cron: str) -> bool:
    """Start the process that runs the active recipe at the given times; returns whether it had to be started."""
    command = [sys.executable, "-m", "flows.cli", "schedule", "--cron", cron]
    return processes.start(layout, "worker", command, [], variables(layout))


def mlflow_healthy(layout: Layout) -> bool:
    """Tell whether MLflow's server answers."""
    return processes.status(f"{layout.url('mlflow')}/health") == 200


def mlflow_refuses(layout: Layout) -> bool:
    """Tell whether MLflow refuses who comes without a password."""
    return processes.status(f"{layout.url('mlflow')}/api/2.0/mlflow/experiments/get?experiment_id=0") == 401


def prefect_healthy(layout: Layout) -> bool:
    """Tell whether Prefect's server answers."""
    return processes.status(f"{layout.url('prefect')}/api/health") == 200


def prefect_refuses(layout: Layout) -> bool:
    """Tell whether Prefect refuses who comes without its key."""
    return processes.status(f"{layout.url('prefect')}/api/admin/version") in (401, 403)
