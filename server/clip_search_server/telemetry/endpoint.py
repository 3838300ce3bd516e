"""The HTTP endpoint that Prometheus asks for metrics; knows nothing of what they are.

Askers are served one at a time, and one that says nothing is dropped, so that the endpoint costs one thread at most.
"""

import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from clip_search_server.errors import FailedPreconditionError

__all__ = ["MetricsEndpoint"]

_SILENCE_SECONDS_MAX = 5


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE_SECONDS_MAX

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: being asked every few seconds is no news."""


class MetricsEndpoint:
    """Serves a registry over HTTP from the moment it is made.

    Args:
        registry: what is served.
        host: address to listen on.
        port: 0 takes a free one.

    Raises:
        FailedPreconditionError: the address cannot be bound.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        try:
            self._server: WSGIServer = make_server(host, port, make_wsgi_app(registry), handler_class=_Handler)
        except OSError as error:
            raise FailedPreconditionError(
                f"--metrics-listen {host}:{port}: the address cannot be bound ({error.strerror}); choose another port."
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
