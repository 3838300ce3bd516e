"""The server under test: a demo server of our own, or any other; checked before users come, and cleaned up after them.

Knows nothing of Locust and of what is measured.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from clip_search.errors import ClipSearchError, NotFoundError, PermissionDeniedError, UnimplementedError
from demo.server_process import metrics_url
from demo.workspace import Workspace, index_pictures, sample_pictures
from loadtest.material import read_material
from loadtest.scenario import Scenario, connect

__all__ = ["DemoServer", "TargetError", "demo_server", "ready"]

_CHECK_SECONDS = 15.0
_DELETE_SECONDS = 60.0


class TargetError(Exception):
    """The server cannot be tested like this; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class DemoServer:
    """Where the demo server is: HOST:PORT, and the URL of its metrics."""

    address: str
    metrics: str


@contextmanager
def demo_server(workspace: Workspace) -> Iterator[DemoServer]:
    """Export the demo model, serve it with the sample pictures, and stop the server at the end."""
    workspace.export_bundle()
    _, pictures = sample_pictures()
    with workspace.start_server(options=("--metrics-listen", "127.0.0.1:0")) as server:
        index_pictures(server.address, pictures)
        yield DemoServer(server.address, metrics_url(workspace.log))
        server.stop()


@contextmanager
def ready(scenario: Scenario) -> Iterator[Scenario]:
    """Check that users will find what they need, and give the scenario with a collection to store in, where they store.

    That collection is new, named `loadtest-…`, and deleted at the end with all that is in it.

    Raises:
        TargetError: the server does not answer, knows no such key, or has nothing to search in.
        MaterialError: there is nothing to send.
    """
    read_material(scenario.pictures, scenario.texts)
    try:
        _check(scenario)
    except ClipSearchError as error:
        raise TargetError(f"the server cannot be used: {error}") from error
    if "ingest" not in scenario.profile.kinds:
        yield scenario
        return
    name = f"loadtest-{uuid.uuid4().hex[:12]}"
    _create(scenario, name)
    try:
        yield replace(scenario, stored_in=name)
    finally:
        _delete(scenario, name)


def _check(scenario: Scenario) -> None:
    with connect(scenario, timeout_seconds=_CHECK_SECONDS) as client:
        client.server_info()
        if "search" not in scenario.profile.kinds:
            return
        try:
            stats = client.stats()
        except NotFoundError as error:
            raise TargetError(f"there is no collection {scenario.collection!r} to search in") from error
        if stats.items == 0:
            raise TargetError(
                f"the collection {stats.collection!r} is empty, so searches would find nothing: index pictures first "
                f"(search_client --server {scenario.host} index FOLDER), or name another one with --collection"
            )


def _create(scenario: Scenario, name: str) -> None:
    try:
        with connect(scenario, timeout_seconds=_CHECK_SECONDS) as client:
            client.create_collection(name)
    except (PermissionDeniedError, UnimplementedError) as error:
        raise TargetError(
            "pictures are stored in a collection of the run's own, which takes a key with the role admin "
            f"({error}); without one, use --profile search or --profile classify"
        ) from error
    except ClipSearchError as error:
        raise TargetError(f"no collection to store in could be made: {error}") from error


def _delete(scenario: Scenario, name: str) -> None:
    try:
        with connect(scenario, timeout_seconds=_DELETE_SECONDS) as client:
            client.delete_collection(name)
    except ClipSearchError as error:
        raise TargetError(
            f"the run's own collection is still there ({error}); delete it with: "
            f"search_client --server {scenario.host} collections delete {name}"
        ) from error
