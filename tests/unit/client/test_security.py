"""TLS, mTLS and API keys from the client's side, against a server with certificates made for the test."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from google.rpc import code_pb2, status_pb2

from clip_search.async_client import AsyncClient
from clip_search.cli import main
from clip_search.client import Client
from clip_search.contents import Item, Text
from clip_search.credentials import TlsOptions, is_loopback, read_api_key
from clip_search.errors import (
    ClipSearchError,
    CredentialsError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnreachableError,
)
from tests.certificates import LAST_WEEK, Authority, chain
from tests.unit.client.fake_server import FakeServer

KEY = "cs_4f8sKJ23-secret"


def credentials(
    authority: Authority, *names: str, expired: bool = False, mutual: bool = False
) -> grpc.ServerCredentials:
    """Make credentials of a server for these names; `mutual` wants a certificate of clients."""
    not_before, not_after = LAST_WEEK if expired else (None, None)
    made = authority.issue(*names, not_before=not_before, not_after=not_after)
    roots = authority.ca.cert_pem.bytes() if mutual else None
    return grpc.ssl_server_credentials([(made.private_key_pem.bytes(), chain(made))], roots, require_client_auth=mutual)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The authority that everybody trusts."""
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path / "stranger")


Serve = Callable[..., FakeServer]


@pytest.fixture
def serve(authority: Authority) -> Iterator[Serve]:
    """Start servers with TLS."""
    started = []

    def start(*names: str, expired: bool = False, mutual: bool = False) -> FakeServer:
        started.append(FakeServer(credentials(authority, *names or ("127.0.0.1",), expired=expired, mutual=mutual)))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def failure(server: FakeServer, tls: TlsOptions | None) -> str:
    """Call a server that cannot be reached so, and give what the caller is told."""
    with Client(server.address, tls=tls, retry=None) as client, pytest.raises(UnreachableError) as caught:
        client.stats()
    assert not server.requests
    return str(caught.value)


def test_a_trusted_server_is_called_over_tls(serve: Serve, authority: Authority) -> None:
    """Calls and streams travel encrypted."""
    server = serve()
    with Client(server.address, tls=TlsOptions(ca=authority.file)) as client:
        assert client.stats().collection == "default"
        with client.ingest([Item("a", Text("dog"))]) as outcomes:
            assert [outcome.error for outcome in outcomes] == [None]


async def test_the_asynchronous_client_speaks_tls(serve: Serve, authority: Authority) -> None:
    """Both of its connections do, and both carry the key."""
    server = serve()
    async with AsyncClient(server.address, tls=TlsOptions(ca=authority.file), api_key=KEY) as client:
        assert (await client.stats()).collection == "default"
        async with client.ingest([Item("a", Text("dog"))]) as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None]
    assert server.metadata[-1]["authorization"] == f"Bearer {KEY}"
    assert server.stream_metadata[-1]["authorization"] == f"Bearer {KEY}"


def test_a_stranger_is_not_trusted(serve: Serve, stranger: Authority) -> None:
    """A certificate of another authority ends it, and the message says what to do."""
    server = serve()
    assert "nobody whom this client trusts vouches for" in failure(server, TlsOptions(ca=stranger.file))
    assert "--tls-ca" in failure(server, TlsOptions())


def test_another_name_is_not_trusted_unless_it_is_named(serve: Serve, authority: Authority) -> None:
    """A certificate counts for its names alone."""
    server = serve("search.example.org")
    assert "made out to another name" in failure(server, TlsOptions(ca=authority.file))
    named = TlsOptions(ca=authority.file, server_name="search.example.org")
    with Client(server.address, tls=named) as client:
        assert client.stats().collection == "default"


def test_an_expired_certificate_is_told_as_such(serve: Serve, authority: Authority) -> None:
    """The message names the one thing to do."""
    assert "has expired" in failure(serve(expired=True), TlsOptions(ca=authority.file))


def test_plaintext_and_tls_do_not_meet(serve: Serve, server: FakeServer, authority: Authority) -> None:
    """Either way round the message says which side to change."""
    assert "it may want TLS" in failure(serve(), None)
    assert "the server speaks no TLS" in failure(server, TlsOptions(ca=authority.file))


def test_nobody_at_the_address_is_told_with_both_reasons(authority: Authority) -> None:
    """Over TLS a missing server and a certificate that does not fit can look the same."""
    with (
        Client("127.0.0.1:1", tls=TlsOptions(ca=authority.file), retry=None) as client,
        pytest.raises(UnreachableError, match=r"\(Connection refused\).*does its certificate fit\?"),
    ):
        client.stats()


def test_a_server_that_wants_a_certificate_gets_it(serve: Serve, authority: Authority, stranger: Authority) -> None:
    """With mTLS a client without a certificate, or with a stranger's, gets nothing."""
    server = serve(mutual=True)
    ca = authority.file
    assert "--tls-certificate" in failure(server, TlsOptions(ca=ca))
    assert "--tls-certificate" in failure(server, TlsOptions(ca, *stranger.client()))
    with Client(server.address, tls=TlsOptions(ca, *authority.client())) as client:
        assert client.stats().collection == "default"


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    """Whatever is wrong with a file is told before anything is sent."""
    certificate, key = authority.client()
    _, other_key = authority.client()
    text = tmp_path / "notes.txt"
    text.write_text("no certificate", "utf-8")
    for options, words in (
        (TlsOptions(ca=tmp_path / "gone.pem"), "gone.pem: No such file"),
        (TlsOptions(ca=text), "notes.txt is no PEM file"),
        (TlsOptions(ca=key), f"{key}: NO_CERTIFICATE"),
        (TlsOptions(certificate=certificate), "belong together"),
        (TlsOptions(certificate=certificate, key=other_key), f"{other_key}: KEY_VALUES_MISMATCH"),
    ):
        with pytest.raises(CredentialsError, match=words):
            Client("localhost:1", tls=options)


# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_key_goes_with_every_call(server: FakeServer) -> None:
    """Calls, streams and health checks carry it."""
    with Client(server.address, api_key=KEY) as client:
        client.search("dog")
        with client.ingest([Item("a", Text("dog"))]) as outcomes:
            list(outcomes)
    assert server.metadata[-1]["authorization"] == f"Bearer {KEY}"
    assert server.stream_metadata[-1]["authorization"] == f"Bearer {KEY}"


def test_without_a_key_nothing_is_sent(server: FakeServer, client: Client) -> None:
    """There is no empty key."""
    client.search("dog")
    assert "authorization" not in server.metadata[-1]


def test_a_key_leaves_this_machine_over_tls_alone(authority: Authority) -> None:
    """In plaintext it goes no further than loopback, unless that is allowed in so many words."""
    for far in ("search.example.org:50051", "10.1.2.3:50051", "localhost.example.org:50051", "127.0.0.1.evil.org:1"):
        with pytest.raises(CredentialsError, match="is not sent to") as refused:
            Client(far, api_key=KEY)
        assert KEY not in str(refused.value)
        Client(far, api_key=KEY, api_key_without_tls=True).close()
        Client(far, api_key=KEY, tls=TlsOptions(ca=authority.file)).close()
    for near in ("localhost:1", "127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "unix:/run/clip-search.sock"):
        assert is_loopback(near)
        Client(near, api_key=KEY).close()


@pytest.mark.parametrize("key", ["", "two words", "line\n", "ü"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    """And the message does not repeat it."""
    with pytest.raises(CredentialsError, match="the API key is empty or holds") as refused:
        Client("localhost:1", api_key=key)
    assert not key or key not in str(refused.value)


def test_the_key_is_shown_nowhere(server: FakeServer) -> None:
    """Neither the client nor an error shows it."""
    with Client(server.address, api_key=KEY) as client:
        server.fail_with = status_pb2.Status(code=code_pb2.UNAUTHENTICATED, message="no such key")
        with pytest.raises(UnauthenticatedError) as caught:
            client.stats()
        assert KEY not in repr(client) + repr(caught.value) + str(caught.value)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(code_pb2.UNAUTHENTICATED, UnauthenticatedError), (code_pb2.PERMISSION_DENIED, PermissionDeniedError)],
)
def test_refusals_have_exceptions_of_their_own(
    server: FakeServer, client: Client, code: int, kind: type[ClipSearchError]
) -> None:
    """Who may not come in, and who may not do this, are told apart; a stream that is refused ends at once."""
    server.fail_with = status_pb2.Status(code=code, message="that is why")
    with pytest.raises(kind, match="that is why"):
        client.stats()
    assert len(server.requests) == 1


def test_a_key_is_read_from_a_file_that_holds_nothing_else(tmp_path: Path) -> None:
    """Line ends do not count; anything but one word is refused without being shown."""
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n", "utf-8")
    assert read_api_key(file) == KEY
    for wrong in ("", "two words\n", "schlüssel\n"):
        file.write_text(wrong, "utf-8")
        with pytest.raises(CredentialsError, match="holds no API key") as refused:
            read_api_key(file)
        assert not wrong.strip() or wrong.strip() not in str(refused.value)
    with pytest.raises(CredentialsError, match=r"cannot read the API key: .*gone: No such file"):
        read_api_key(tmp_path / "gone")


# ── At the terminal ──────────────────────────────────────────────────────────────────────────────────────────────────


def run(*arguments: str, **environment: str) -> Result:
    """Run `search_client`."""
    return CliRunner(env=environment).invoke(main, arguments)


def test_the_program_takes_tls_and_key_from_options(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    """Options may stand before or after the command; the key comes from a file."""
    server = serve(mutual=True)
    (tmp_path / "key").write_text(KEY, "utf-8")
    certificate, key = map(str, authority.client())
    connection = ["--server", server.address, "--tls-ca", str(authority.file), "--tls-certificate", certificate]
    for arguments in (
        [*connection, "--tls-key", key, "--api-key-file", str(tmp_path / "key"), "stats"],
        [*connection, "stats", "--tls-key", key, "--api-key-file", str(tmp_path / "key")],
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert server.metadata[-1]["authorization"] == f"Bearer {KEY}"


def test_the_program_takes_tls_and_key_from_the_environment(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    """Each option has a variable; an option wins over it, and a file over the key itself."""
    server = serve("search.example.org")
    variables = {
        "CLIP_SEARCH_SERVER": server.address,
        "CLIP_SEARCH_TLS_CA": str(authority.file),
        "CLIP_SEARCH_TLS_SERVER_NAME": "elsewhere.example.org",
        "CLIP_SEARCH_API_KEY": KEY,
    }
    result = run("stats", "--tls-server-name", "search.example.org", **variables)
    assert result.exit_code == 0, result.output
    assert server.metadata[-1]["authorization"] == f"Bearer {KEY}"
    (tmp_path / "key").write_text("another", "utf-8")
    variables |= {"CLIP_SEARCH_API_KEY_FILE": str(tmp_path / "key")}
    run("stats", "--tls-server-name", "search.example.org", **variables)
    assert server.metadata[-1]["authorization"] == "Bearer another"


def test_the_program_explains_what_is_wrong_with_credentials(tmp_path: Path) -> None:
    """A file that is missing, and a key that may not be sent, are errors with exit code 1, in JSON too."""
    result = run("--tls-ca", str(tmp_path / "gone.pem"), "stats")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: cannot read the authorities' certificates: {tmp_path / 'gone.pem'}: No such file or directory\n"
    )
    result = run("--server", "search.example.org:1", "--json", "stats", CLIP_SEARCH_API_KEY=KEY)
    assert result.exit_code == 1
    error = json.loads(result.stderr)["error"]
    assert error["code"] == "CREDENTIALS"
    assert "--api-key-without-tls" in error["message"]
    assert KEY not in result.output


def test_the_program_shows_the_request_id(server: FakeServer) -> None:
    """Programs get the id under which the server's log has the call."""
    server.fail_with = status_pb2.Status(code=code_pb2.INTERNAL, message="oh")
    server.trailers = (("x-request-id", "4711"),)
    result = run("--server", server.address, "--json", "stats")
    assert json.loads(result.stderr)["error"] == {"code": "INTERNAL", "message": "oh", "request_id": "4711"}
