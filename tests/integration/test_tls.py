"""TLS of a real server with API keys: who gets in, and what renewals change while it serves."""

import datetime as dt
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from clip_search.client import Client
from clip_search.contents import Item, Vector
from clip_search.credentials import TlsOptions
from clip_search.errors import PermissionDeniedError, UnauthenticatedError, UnreachableError
from demo.server_process import ServerProcess, ServerProcessError, program
from tests.certificates import LAST_WEEK, Authority, Files, chain, der, encrypted, shown
from tests.integration.keys import Keys
from tests.unit.index.support import wait_until

SECONDS = 30.0
RENEWALS = 4
KEPT = "The certificate that was in use stays in use."
ITEM = Item("a", Vector(np.ones(192, np.float32)))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who the clients of these tests trust."""
    return Authority(tmp_path_factory.mktemp("authorities") / "ca")


@pytest.fixture(scope="module")
def clients_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who vouches for clients."""
    return Authority(tmp_path_factory.mktemp("authorities") / "clients")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("authorities") / "stranger")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """A key of each role."""
    made = Keys(tmp_path_factory.mktemp("keys") / "keys.json")
    for role in ("read", "write", "admin"):
        made.add(role, role)
    made.write()
    return made


class Served:
    """A server with TLS and keys, and its files."""

    def __init__(self, process: ServerProcess, files: Files, keys: Keys) -> None:
        self.process, self.files, self._keys = process, files, keys
        self.address = process.address.replace("127.0.0.1", "localhost")

    def log(self) -> str:
        """Return all that the server wrote."""
        return self.process._log.read_text(encoding="utf-8")

    def client(self, tls: TlsOptions | None, key: str | None = "admin", address: str | None = None) -> Client:
        """Connect anew, under a key's name; nothing is tried twice."""
        text = None if key is None else self._keys.texts[key]
        return Client(address or self.address, tls=tls, api_key=text, retry=None, timeout_seconds=SECONDS)

    def told(self, tls: TlsOptions | None, address: str | None = None) -> str:
        """Call over a connection that cannot be made, and return what the caller is told."""
        with self.client(tls, address=address) as client, pytest.raises(UnreachableError) as caught:
            client.stats()
        return str(caught.value)

    def shows(self, certificate: bytes) -> bool:
        """Tell whether new connections get this certificate."""
        return shown(self.process.address) == certificate


@contextmanager
def serving(bundle: Path, folder: Path, keys: Keys, files: Files, *options: str) -> Iterator[Served]:
    """Start a server with these certificates."""
    given = [*files.options, "--api-keys", str(keys.path), *options]
    with ServerProcess.start(bundle, folder / "data", log=folder / "log", options=given) as process:
        yield Served(process, files, keys)


@pytest.fixture(scope="module")
def served(bundle: Path, ca: Authority, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that proves who it is."""
    folder = tmp_path_factory.mktemp("tls")
    files = Files(folder)
    files.write(ca.issue())
    with serving(bundle, folder, keys, files) as running:
        yield running


@pytest.fixture(scope="module")
def mutual(
    bundle: Path, ca: Authority, clients_ca: Authority, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A server that also wants to know who its clients are."""
    folder = tmp_path_factory.mktemp("mutual")
    files = Files(folder)
    files.write(ca.issue())
    with serving(bundle, folder, keys, files, "--tls-client-ca", str(clients_ca.file)) as running:
        yield running


# ── Who gets in ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_over_tls_keys_decide(served: Served, ca: Authority) -> None:
    """Encryption opens nothing by itself: without a key nobody calls, and roles reach as far as without TLS."""
    trusted = ca.trusted()
    with served.client(trusted, None) as nobody, pytest.raises(UnauthenticatedError):
        nobody.stats()
    with served.client(trusted, "read") as reader:
        assert reader.stats().collection == "default"
        with pytest.raises(PermissionDeniedError):
            reader.upsert([ITEM])
    with served.client(trusted, "write") as writer:
        assert [outcome.error for outcome in writer.upsert([ITEM])] == [None]


def test_a_connection_that_cannot_be_trusted_carries_nothing(
    served: Served, ca: Authority, stranger: Authority
) -> None:
    """Plaintext, unknown authorities and another host's name end before a key is sent; the server goes on."""
    cases: dict[str, tuple[TlsOptions | None, str]] = {
        "plaintext": (None, "it may want TLS"),
        "unknown authority": (stranger.trusted(), "nobody whom this client trusts vouches for"),
        "the well-known authorities": (TlsOptions(), "--tls-ca"),
        "another host": (TlsOptions(ca.file, server_name="elsewhere.example.org"), "made out to another name"),
    }
    for tls, words in cases.values():
        assert words in served.told(tls)
    with served.client(ca.trusted()) as client:
        assert client.stats().collection == "default"


def test_an_address_counts_like_a_name(served: Served, ca: Authority) -> None:
    """A certificate for 127.0.0.1 is good for callers who use the address."""
    with served.client(ca.trusted(), address=served.process.address) as client:
        assert client.stats().collection == "default"


def test_a_server_whose_certificate_expired_is_refused(bundle: Path, ca: Authority, keys: Keys, tmp_path: Path) -> None:
    """It starts and says so, since renewing is what helps; once renewed it is called, without a restart."""
    files = Files(tmp_path)
    not_before, not_after = LAST_WEEK
    files.write(ca.issue(not_before=not_before, not_after=not_after))
    with serving(bundle, tmp_path, keys, files) as running:
        assert "the certificate expired at" in running.log()
        assert "has expired" in running.told(ca.trusted())
        renewed = ca.issue()
        files.write(renewed)
        wait_until(lambda: running.shows(der(renewed)))
        with running.client(ca.trusted()) as client:
            assert client.stats().collection == "default"


def test_a_client_shows_a_certificate_and_a_key(
    mutual: Served, ca: Authority, clients_ca: Authority, stranger: Authority
) -> None:
    """None, a foreign and an expired certificate do not get in, whatever key would come; a good one needs a key too."""
    for certificate in (None, stranger.client(), clients_ca.client(expired=True), ca.client()):
        assert "--tls-certificate" in mutual.told(ca.trusted(certificate))
    good = ca.trusted(clients_ca.client())
    with mutual.client(good, None) as nobody, pytest.raises(UnauthenticatedError):
        nobody.stats()
    with mutual.client(good, "read") as client:
        assert client.stats().collection == "default"


def test_authorities_of_clients_change_while_serving(
    mutual: Served, ca: Authority, clients_ca: Authority, tmp_path: Path
) -> None:
    """A new one lets its clients in, one that is taken out lets in nobody new, and open connections go on."""
    coming = Authority(tmp_path / "coming")
    before = clients_ca.file.read_bytes()
    old, new = ca.trusted(clients_ca.client()), ca.trusted(coming.client())
    try:
        with mutual.client(old) as open_before:
            assert open_before.stats().collection == "default"
            clients_ca.file.write_bytes(coming.file.read_bytes())
            wait_until(lambda: _answers(mutual, new))
            assert "--tls-certificate" in mutual.told(old)
            assert open_before.stats().collection == "default"
    finally:
        clients_ca.file.write_bytes(before)
    wait_until(lambda: _answers(mutual, old))


def _answers(server: Served, tls: TlsOptions) -> bool:
    with server.client(tls) as client:
        try:
            client.stats()
        except UnreachableError:
            return False
        return True


def test_the_program_calls_over_tls_with_a_key(served: Served, ca: Authority, keys: Keys, tmp_path: Path) -> None:
    """`search_client --tls-ca … --api-key-file …` is answered; another authority and another key are errors."""
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_text(keys.texts["read"] + "\n", encoding="utf-8")
    other.write_text("clipsearch_" + "A" * 43, encoding="utf-8")
    good = _program(served, "--tls-ca", str(ca.file), "--api-key-file", str(key))
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["collection"] == "default"
    for arguments, code in (
        (["--tls-ca", str(ca.file), "--api-key-file", str(other)], "UNAUTHENTICATED"),
        (["--tls", "--api-key-file", str(key)], "UNAVAILABLE"),
        (["--api-key-file", str(key)], "UNAVAILABLE"),
    ):
        refused = _program(served, *arguments)
        assert refused.returncode == 1
        assert json.loads(refused.stderr)["error"]["code"] == code
        assert keys.texts["read"] not in refused.stdout + refused.stderr


def _program(server: Served, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [program("search_client"), "--server", server.address, "--json", *arguments, "stats"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# ── Renewals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Callers:
    """Threads that call until told, and what failed."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.calls = 0
        self.errors: list[BaseException] = []

    def start(self, call: Callable[[], None]) -> None:
        """Call over and over in a thread of its own; the first error ends it."""
        self._threads.append(threading.Thread(target=self._repeat, args=(call,)))
        self._threads[-1].start()

    def _repeat(self, call: Callable[[], None]) -> None:
        while not self._ended.is_set():
            try:
                call()
            except BaseException as error:  # noqa: BLE001  # told by the test
                self.errors.append(error)
                return
            self.calls += 1

    def items(self) -> Iterator[Item]:
        """Yield an item now and then until told."""
        number = 0
        while not self._ended.wait(0.02):
            yield Item(f"streamed/{number}", ITEM.content)
            number += 1

    def end(self) -> None:
        """Let all come to an end."""
        self._ended.set()
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()


def _searches_anew(server: Served, tls: TlsOptions) -> None:
    with server.client(tls, "read") as client:
        client.search("a red square")


def test_renewals_drop_nothing(served: Served, ca: Authority) -> None:
    """Over several, searches on open and on new connections and a stream of items go on, all on one server."""
    callers, trusted = Callers(), ca.trusted()
    outcomes: list[str | None] = []
    with ExitStack() as stack:
        stack.callback(callers.end)
        old = stack.enter_context(served.client(trusted, "read"))
        old.search("a red square")
        callers.start(lambda: _done(old.search("a red square")))
        callers.start(lambda: _searches_anew(served, trusted))
        writer = stack.enter_context(served.client(trusted, "write"))
        stream = stack.enter_context(writer.ingest(callers.items()))
        reader = threading.Thread(
            target=lambda: outcomes.extend(str(each.error) if each.error else None for each in stream)
        )
        reader.start()
        for _ in range(RENEWALS):
            made, before, answered = ca.issue(), callers.calls, len(outcomes)
            served.files.write(made)
            wait_until(lambda made=made: served.shows(der(made)))  # type: ignore[misc]
            wait_until(lambda n=before, m=answered: _went_on(callers, n) and len(outcomes) > m)  # type: ignore[misc]
        callers.end()
        reader.join(SECONDS)
        assert not reader.is_alive()
        assert not old.get_items([f"streamed/{number}" for number in range(len(outcomes))]).missing_ids
    assert callers.errors == []
    assert outcomes
    assert set(outcomes) == {None}


def _done(_result: object) -> None:
    """Take a result and be done."""


def _went_on(callers: Callers, before: int) -> bool:
    return callers.calls >= before + 10 or bool(callers.errors)


def test_files_that_do_not_do_change_nothing(served: Served, ca: Authority) -> None:
    """Half-written, mismatched, locked, expired and missing files are logged by name, and the old certificate stays."""
    good, other = ca.issue(), ca.issue()
    files = served.files
    files.write(good)
    wait_until(lambda: served.shows(der(good)))
    not_before, not_after = LAST_WEEK
    damages: dict[str, Callable[[], object]] = {
        "holds no certificate in PEM form": lambda: files.certificate.write_bytes(chain(other)[:300]),
        "is not the key of the first certificate": lambda: files.certificate.write_bytes(chain(other)),
        "is encrypted": lambda: files.write_key(encrypted(good)),
        "holds no private key in PEM form": lambda: files.write_key(good.private_key_pem.bytes()[:200]),
        "the certificate expired at": lambda: files.write(ca.issue(not_before=not_before, not_after=not_after)),
        "server.pem: cannot be read (No such file or directory)": files.certificate.unlink,
    }
    with served.client(ca.trusted()) as old:
        for words, damage in damages.items():
            told = served.log().count(KEPT)
            damage()
            wait_until(lambda told=told: served.log().count(KEPT) > told)  # type: ignore[misc]
            lines = [line for line in served.log().splitlines() if KEPT in line]
            assert words in lines[-1]
            assert served.shows(der(good))
            assert old.stats().collection == "default"
            files.write(good)
            wait_until(lambda: _settled(served))
    files.write(other)
    wait_until(lambda: served.shows(der(other)))


def _settled(server: Served) -> bool:
    """Tell whether the server took the latest files: that is told after the last complaint."""
    lines = [line for line in server.log().splitlines() if KEPT in line or "new certificate, for" in line]
    return KEPT not in lines[-1]


# ── Messages at start ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_locked_key_ends_the_start(bundle: Path, ca: Authority, tmp_path: Path) -> None:
    """Nobody is there to type a password: the message names the file and the command that helps."""
    files = Files(tmp_path / "files")
    made = ca.issue()
    files.write(made)
    files.write_key(encrypted(made))
    with pytest.raises(ServerProcessError, match=rf"--tls-key {files.key}: is encrypted.*openssl pkey -in") as refused:
        ServerProcess.start(bundle, tmp_path / "data", log=tmp_path / "log", options=files.options)
    assert "exit code 1" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_a_start_tells_of_files_that_want_care(bundle: Path, ca: Authority, keys: Keys, tmp_path: Path) -> None:
    """A key that everybody can read and a certificate near its end are warned of, and the server serves."""
    files = Files(tmp_path / "files")
    now = dt.datetime.now(dt.UTC)
    files.write(ca.issue(not_before=now - dt.timedelta(days=80), not_after=now + dt.timedelta(days=3, hours=1)))
    files.key.chmod(0o644)
    with serving(bundle, tmp_path, keys, files) as running:
        assert f"{files.key}: everybody on this machine can read it; chmod 600 it" in running.log()
        assert "the certificate expires in 3.0 days" in running.log()
        with running.client(ca.trusted()) as client:
            assert client.stats().collection == "default"
        files.key.chmod(0o600)
        files.write(ca.issue())
        wait_until(lambda: "new certificate, for localhost, 127.0.0.1, until" in running.log())


def test_no_log_holds_a_key(served: Served, mutual: Served, keys: Keys) -> None:
    """Whatever came before, neither an API key nor a private key is in a log."""
    for server in (served, mutual):
        log = server.log()
        assert not any(text in log for text in keys.texts.values())
        assert "PRIVATE KEY-----" not in log.replace("-----BEGIN PRIVATE KEY-----.", "")
