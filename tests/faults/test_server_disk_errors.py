"""The disk of a real server fills up, or fails: nothing is acknowledged that is not kept, and reads go on."""

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from clip_search.client import Client
from clip_search.contents import Item, Vector
from clip_search.errors import UnavailableError
from demo.server_process import ServerProcess, program
from tests.faults.injection import injected
from tests.faults.mounted_disks import small_disk
from tests.integration.stubs import health_within

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.timeout(300)]

DIM = 192
OPTIONS = ["--segment-rows", "64"]
VECTORS = np.random.default_rng(12).standard_normal((400, DIM), dtype=np.float32)
TEXT = "a rather long text, so that the log grows with every write; " * 100
WRITES_MAX = 2000
DISK_MIB = 48


def item(name: str, number: int) -> Item:
    """An item with a vector of its own."""
    return Item(name, Vector(VECTORS[number % len(VECTORS)]), text=f"{number} {TEXT}")


@dataclass
class Told:
    """What was acknowledged: the newest number of each item, and the collections."""

    numbers: dict[str, int] = field(default_factory=dict)
    collections: set[str] = field(default_factory=set)
    aliases: dict[str, str] = field(default_factory=dict)

    def write(self, client: Client, name: str, number: int) -> None:
        """Write an item and note that it was acknowledged."""
        (outcome,) = client.upsert([item(name, number)])
        assert outcome.error is None
        self.numbers[name] = number


def check_reads(client: Client, told: Told) -> None:
    """Everything acknowledged is read and found; a search answers as an exact one does."""
    ids = sorted(told.numbers)
    found = client.get_items(ids)
    assert not found.missing_ids
    assert all(int(each.text.split(" ", 1)[0]) >= told.numbers[each.id] for each in found.items)
    for number in (1, 50, 150):
        query = Vector(VECTORS[number])
        approximate, exact = (client.search(query, limit=5, exact=flag).hits for flag in (False, True))
        assert [(hit.id, hit.score) for hit in approximate] == [(hit.id, hit.score) for hit in exact]
    assert client.list_items(page_size=10).items


def check_catalog(client: Client, told: Told) -> None:
    """Collections and aliases are those that were acknowledged."""
    listed = client.list_collections()
    assert {each.name for each in listed} == told.collections
    assert {alias: each.name for each in listed for alias in each.aliases} == told.aliases


def fill(client: Client, told: Told) -> None:
    """Bring a new server to the state before the trouble: two collections, an alias, segments, a generation."""
    for number in range(300):
        told.write(client, f"item {number}", number)
    client.create_collection("pets")
    client.set_alias("current", "default")
    client.snapshot()
    told.collections = {"default", "pets"}
    told.aliases = {"current": "default"}


def check_refusals(client: Client, told: Told, reason: str) -> None:
    """Whatever needs the disk is refused in words, one kind of call after the other, and reads go on after each."""
    calls: dict[str, Callable[[], object]] = {
        "no generation could be published": client.snapshot,
        "collection 'more' could not be created": lambda: client.create_collection("more"),
        "the aliases could not be changed": lambda: client.set_alias("current", "pets"),
        "collection 'pets' could not be deleted": lambda: client.delete_collection("pets"),
    }
    for words, call in calls.items():
        with pytest.raises(UnavailableError, match=words) as caught:
            call()
        assert re.search(reason, str(caught.value))
        check_reads(client, told)
        check_catalog(client, told)
    write_until_refused(client, told)
    check_reads(client, told)


def write_until_refused(client: Client, told: Told) -> None:
    """Write until the log cannot grow, or be synced; what is refused says what to do."""
    for number in range(WRITES_MAX):
        try:
            told.write(client, f"late {number}", number)
        except UnavailableError as error:
            assert error.args[0].endswith("check the disk and restart the server")  # noqa: PT017 - any of the writes
            return
    pytest.fail("no write was refused")


def check_after(client: Client, told: Told) -> None:
    """With the trouble over, the catalog changes again; writes and snapshots wait for the restart, as was said."""
    for call in (lambda: told.write(client, "later", 1), client.snapshot):
        with pytest.raises(UnavailableError, match="check the disk and restart the server"):
            call()
    client.create_collection("more")
    client.set_alias("current", "more")
    client.delete_collection("pets")
    told.collections, told.aliases = {"default", "more"}, {"current": "more"}
    check_reads(client, told)
    check_catalog(client, told)


def check_health(server: ServerProcess) -> None:
    """Who writes is sent elsewhere, who searches is not."""
    health_within(server.address, "clip_search.v1.IndexService", "NOT_SERVING")
    for service in ("", "clip_search.v1.SearchService"):
        health_within(server.address, service, "SERVING")


def check_after_restart(client: Client, told: Told, data: Path) -> None:
    """Everything acknowledged is there, nothing half-made, and all calls succeed."""
    check_reads(client, told)
    check_catalog(client, told)
    told.write(client, "at last", 3)
    client.snapshot()
    assert not list(data.rglob("*.tmp"))
    assert not list((data / "collections").glob(".*"))


def live_through(
    trouble: Callable[[ServerProcess], AbstractContextManager[None]], reason: str, bundle: Path, data: Path, log: Path
) -> None:
    """Let a server meet trouble with its disk, get over it, be killed and start anew; look at it all the while."""
    told = Told()
    with ServerProcess.start(bundle, data, log=log, options=OPTIONS) as server, Client(server.address) as client:
        fill(client, told)
        told.write(client, "just before", 7)
        with trouble(server):
            check_refusals(client, told, reason)
        check_after(client, told)
        check_health(server)
        server.kill()
    with ServerProcess.start(bundle, data, log=log, options=OPTIONS) as server, Client(server.address) as client:
        check_after_restart(client, told, data)
    checked = subprocess.run([program("clip-search"), "check", "--data", str(data)], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_a_server_lives_through_a_full_disk(bundle: Path, tmp_path: Path) -> None:
    """ENOSPC in commits, snapshots and changes of the catalog: refused with the reason, and nothing is lost."""
    with small_disk(tmp_path, DISK_MIB) as disk:

        @contextlib.contextmanager
        def full(_server: ServerProcess) -> Iterator[None]:
            disk.fill()
            yield
            disk.make_room()

        live_through(full, "No space left on device|disk is full", bundle, disk.folder / "data", tmp_path / "log")


def test_a_server_lives_through_failing_syncs(bundle: Path, tmp_path: Path) -> None:
    """EIO from fsync in commits, snapshots and changes of the catalog: refused with the reason, and nothing is lost."""

    def failing(server: ServerProcess) -> AbstractContextManager[None]:
        return injected(server.pid, "fsync,fdatasync:error=EIO", tmp_path / "strace.log")

    live_through(failing, "Input/output error", bundle, tmp_path / "data", tmp_path / "log")
