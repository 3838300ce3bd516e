"""Who may ask the gateway, and the headers that every answer carries; knows nothing of what is asked.

The gateway has no accounts: whoever reaches it may search. On a person's own machine that includes every web site that
is open in the same browser, so these are kept out:

- A site whose name was made to lead to this machine (DNS rebinding) is known by the `Host` header: it must be an
  address written in numbers, which nobody can rebind, `localhost`, or a name that was allowed by the command line.
- A site that asks from elsewhere is known by `Sec-Fetch-Site` and `Origin`, which browsers set and pages cannot forge.
  Following a link to the page is allowed, anything else is not.
"""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clip_search_gallery.problems import problem_response

__all__ = ["PAGE_POLICY", "PICTURE_POLICY", "AccessGuard", "is_loopback"]

#: The page loads its own files and nothing else, sends nothing elsewhere, and makes no HTML out of text.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
#: A picture that is opened by itself may do nothing at all.
PICTURE_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"

_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(:[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Tell whether a host, as it is listened on, can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AccessGuard:
    """ASGI middleware that answers who may not ask, and adds the headers to every answer that lacks them.

    Args:
        app: what is guarded.
        names: host names, besides `localhost`, under which the gateway may be called.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
        else:
            await problem_response(403, "REFUSED", refusal)(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> str | None:
        """Say why a request with these headers is refused; None where it is not."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return (
                f"this page is not called {host!r} here. Open it by its number or as localhost, or start it with "
                "--host-name"
            )
        is_navigation = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and not is_navigation:
            return "another site may link to this page, and no more"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return "another site may not use this page"
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower().rstrip(".")
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True
