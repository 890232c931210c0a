"""Prefect's server, for this machine alone: `python -m flows.services.prefect_server`, which `polm ui` starts.

`prefect server start` answers every `Host` and `Origin`, and allows every page to read the answers: any site open in a
browser could start flows. The application is the same here, behind a guard.
"""

import uvicorn
from prefect import settings
from prefect.server.api.server import create_app

from flows.services.loopback import Guard


def main() -> None:
    """Serve until SIGTERM. Address, port and dashboard are Prefect's own settings (`PREFECT_SERVER_…`)."""
    uvicorn.run(
        Guard(create_app(final=True)),
        host=settings.PREFECT_SERVER_API_HOST.value(),
        port=settings.PREFECT_SERVER_API_PORT.value(),
        timeout_keep_alive=settings.PREFECT_SERVER_API_KEEPALIVE_TIMEOUT.value(),
        ws_ping_interval=settings.PREFECT_SERVER_API_WEBSOCKET_PING_INTERVAL.value(),
        ws_ping_timeout=settings.PREFECT_SERVER_API_WEBSOCKET_PING_TIMEOUT.value(),
        log_level=settings.PREFECT_SERVER_LOGGING_LEVEL.value().lower(),
    )


if __name__ == "__main__":
    main()
