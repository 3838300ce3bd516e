"""The metrics endpoint: what it serves, where it cannot listen, and that it frees its port."""

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from clip_search_server.errors import FailedPreconditionError
from clip_search_server.telemetry.endpoint import MetricsEndpoint


def _read(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def test_metrics_are_served_until_it_is_closed() -> None:
    """A scrape has the registry's values; after closing nobody answers."""
    registry = CollectorRegistry()
    Gauge("answer", "Help.", registry=registry).set(42)
    endpoint = MetricsEndpoint(registry, "127.0.0.1", 0)
    assert "answer 42.0" in _read(endpoint.port)
    endpoint.close()
    with pytest.raises(urllib.error.URLError):
        _read(endpoint.port)


def test_a_port_in_use_is_named() -> None:
    """Where another program has the port the error says which and what to do."""
    first = MetricsEndpoint(CollectorRegistry(), "127.0.0.1", 0)
    try:
        with pytest.raises(FailedPreconditionError, match=rf"--metrics-listen 127.0.0.1:{first.port}.*another port"):
            MetricsEndpoint(CollectorRegistry(), "127.0.0.1", first.port)
    finally:
        first.close()
