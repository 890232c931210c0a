"""Who may talk to a server on loopback: programs of this machine, and no web page that a browser lets reach it.

A page of a foreign site shows itself by its `Origin`; one whose name was made to point to 127.0.0.1 (DNS rebinding) by
its `Host`.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address means this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def foreign(headers: Headers) -> str | None:
    """Find the header which shows that a web page asks, and no program of this machine.

    Without a `Host` it is no browser: only HTTP/1.0 may leave it out.

    Returns:
        `Host` or `Origin`; None when neither is foreign.
    """
    urls = {"Host": f"//{headers.get('host', 'localhost')}", "Origin": headers.get("origin", "//localhost")}
    for header, url in urls.items():
        try:
            name = urlsplit(url).hostname
        except ValueError:
            name = None
        if not is_loopback(name or ""):
            return header
    return None


class Guard:
    """An ASGI application that refuses foreign requests, WebSockets too, before `app` sees them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, close the WebSocket, or pass the request on."""
        header = foreign(Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if header is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": f"the header '{header}' is foreign"})
        else:
            text = f"the header '{header}' is not of this machine; open http://127.0.0.1 or http://localhost\n"
            await PlainTextResponse(text, status_code=403)(scope, receive, send)
