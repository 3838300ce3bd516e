"""What is said of a certificate by its dates and names."""

import datetime as dt
from pathlib import Path

import pytest
import trustme

from clip_search_server.access.certificates import Identity, TlsFiles

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def identity(folder: Path, begins: dt.datetime, ends: dt.datetime) -> Identity:
    """Make a certificate that is valid so long, and read it."""
    made = trustme.CA().issue_cert("search.example.org", "127.0.0.1", not_before=begins, not_after=ends)
    files = TlsFiles(folder / "server.pem", folder / "server.key")
    made.cert_chain_pems[0].write_to_path(str(files.certificate))
    made.private_key_pem.write_to_path(str(files.key))
    return Identity.read(files)


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [
        (-80, 10, "the certificate expires in 10.0 days (2027-01-11 00:00 UTC); renew it"),
        (-75, 15, None),
        (-300, 65, None),
        (-8, 2, None),
        (-8.1, 1.9, "the certificate expires in 1.9 days"),
        (-10, -1, "the certificate expired at 2026-12-31 00:00 UTC: clients refuse it; renew it"),
        (-10, 0, "the certificate expired at 2027-01-01 00:00 UTC"),
        (1, 90, "the certificate is valid from 2027-01-02 00:00 UTC only: is this machine's clock right?"),
    ],
)
def test_dates_that_want_care_are_told(tmp_path: Path, begins: float, ends: float, words: str | None) -> None:
    """From two weeks before the end, or in the last fifth of a shorter life; before and after its time."""
    read = identity(tmp_path, NOW + begins * DAY, NOW + ends * DAY)
    said = read.warning_at(NOW)
    assert (said is None) if words is None else (said or "").startswith(words)
    assert read.is_valid_at(NOW) == (begins <= 0 < ends)
    assert read.names == ("search.example.org", "127.0.0.1")


def test_files_that_others_can_use_are_told(tmp_path: Path) -> None:
    """A key that everybody can read, and whatever everybody can write; a certificate may be read."""
    identity(tmp_path, NOW - DAY, NOW + DAY)
    files = TlsFiles(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    for path, mode in ((files.certificate, 0o644), (files.key, 0o640), (tmp_path / "ca.pem", 0o644)):
        path.touch()
        path.chmod(mode)
    assert files.warnings() == []
    files.key.chmod(0o644)
    files.certificate.chmod(0o666)
    assert files.warnings() == [
        f"{files.certificate}: everybody on this machine can write it; chmod o-w it",
        f"{files.key}: everybody on this machine can read it; chmod 600 it, or 640 with a group of the server's own",
    ]
