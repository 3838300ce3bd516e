"""Pictures in zip and tar archives: found, read one by one, and never trusted."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clip_search.indexing.found import FoundPicture, UnreadableError, Unusable
from clip_search.indexing.sources import sources_of
from tests.unit.client.conftest import PNG, Program
from tests.unit.client.fake_server import FakeServer

BYTES_MAX = 1_000_000
KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"]
MEMBERS = {"x.png": PNG, "./deep/y.JPG": PNG + b"2", "notes.txt": b"no", "deep/.hidden.png": PNG}


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Give a header of a tar archive."""
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname, header.mtime = size, kind, target, 1_700_000_000
    return header


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    """Make an archive of the kind that its name tells."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(zipfile.ZipInfo(name, (2024, 5, 31, 12, 0, 0)), data)
        return path
    mode = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # typeshed wants literal modes
        for name, data in members.items():
            archive.addfile(member(name, len(data)), io.BytesIO(data))
    return path


def found_in(path: Path, bytes_max: int = BYTES_MAX) -> list[FoundPicture | Unusable]:
    """Give all that is found in an archive."""
    (source,) = sources_of([path])
    return list(source.pictures(bytes_max))


def problems(path: Path) -> dict[str, str]:
    """Give what cannot be used, by its place after the archive's."""
    return {each.place.removeprefix(f"{path}: "): each.reason for each in found_in(path) if isinstance(each, Unusable)}


@pytest.mark.parametrize("name", KINDS)
def test_pictures_of_archives_are_stored(server: FakeServer, program: Program, tmp_path: Path, name: str) -> None:
    """Their ids begin with the archive's name; they are known again, and vanished ones are pruned."""
    path = pack(tmp_path / name, MEMBERS)
    assert program.document("index", str(path))["stored"] == 2
    assert sorted(server.items) == [f"{name}/deep/y.JPG", f"{name}/x.png"]
    item = server.items[f"{name}/deep/y.JPG"]
    assert item.content.image == PNG + b"2"
    assert item.attributes["source"].string_value == str(path)
    assert item.attributes["member"].string_value == "./deep/y.JPG"
    assert item.attributes["file_name"].string_value == "y.JPG"
    assert "path" not in item.attributes
    assert program.document("index", str(path))["skipped"] == 2
    pack(path, {"x.png": PNG, "deep/z.png": PNG})
    result = program("--json", "index", str(path), "--prune", "--yes")
    assert result.exit_code == 0, result.output
    assert sorted(server.items) == [f"{name}/deep/z.png", f"{name}/x.png"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_pictures_are_counted_without_reading_them(tmp_path: Path, name: str) -> None:
    """A compressed tar archive would have to be unpacked for it."""
    (source,) = sources_of([pack(tmp_path / name, MEMBERS)])
    assert source.count() == 2
    (compressed,) = sources_of([pack(tmp_path / "a.tar.gz", MEMBERS)])
    assert compressed.count() is None


def test_times_are_the_archives(tmp_path: Path) -> None:
    """A member without a time has that of the archive, so that one made anew is read anew."""
    path = pack(tmp_path / "a.tar", {"x.png": PNG})
    (found,) = found_in(path)
    assert isinstance(found, FoundPicture)
    assert found.facts["modified"] == datetime.fromtimestamp(1_700_000_000, UTC)
    with tarfile.open(path, "w") as archive:
        header = member("x.png", len(PNG))
        header.mtime = 0
        archive.addfile(header, io.BytesIO(PNG))
    (found,) = found_in(path)
    assert isinstance(found, FoundPicture)
    assert abs(found.facts["modified"].timestamp() - time.time()) < 600  # type: ignore[union-attr]


@pytest.mark.parametrize("name", KINDS)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    """Neither an absolute path nor `..` becomes an id."""
    path = pack(
        tmp_path / name, {"../up.png": PNG, "/etc/x.png": PNG, "a/../../b.png": PNG, "C:/x.png": PNG, "ok.png": PNG}
    )
    absolute = "its name is an absolute path, which is not followed"
    leads_out = "its name leads out of the folder that it is in (..), which is not followed"
    assert problems(path) == {
        "../up.png": leads_out,
        "/etc/x.png": absolute,
        "a/../../b.png": leads_out,
        "C:/x.png": absolute,
    }
    assert [each.id for each in found_in(path) if isinstance(each, FoundPicture)] == [f"{name}/ok.png"]


def test_links_and_devices_in_archives_are_not_followed(tmp_path: Path) -> None:
    """A link could lead to any file of this machine."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(member("soft.png", kind=tarfile.SYMTYPE, target="/etc/passwd"))
        archive.addfile(member("hard.png", kind=tarfile.LNKTYPE, target="../x.png"))
        archive.addfile(member("pipe.png", kind=tarfile.FIFOTYPE))
        archive.addfile(member("folder.png", kind=tarfile.DIRTYPE))
    link = "it is a link, which is not followed inside archives"
    assert problems(path) == {"soft.png": link, "hard.png": link, "pipe.png": "not a regular file"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_members_that_are_too_large_are_passed_over(
    server: FakeServer, program: Program, tmp_path: Path, name: str
) -> None:
    """Whatever they unpack to is never in memory; the pictures around them are stored."""
    server.limits.image_bytes_max = 10_000
    path = pack(tmp_path / name, {"a.png": PNG, "bomb.png": bytes(5_000_000), "c.png": PNG})
    result = program("index", str(path))
    assert result.exit_code == 1
    assert "bomb.png: the file is too large: 5,000,000 bytes, and the server takes at most 10,000" in result.stderr
    assert sorted(server.items) == [f"{name}/a.png", f"{name}/c.png"]


def test_a_zip_member_is_never_unpacked_beyond_what_it_may_have(tmp_path: Path) -> None:
    """Reading stops at the bound, one byte after which it is known to be too large."""
    (found,) = found_in(pack(tmp_path / "a.zip", {"bomb.png": bytes(5_000_000)}))
    assert isinstance(found, FoundPicture)
    assert len(found.read(1_000)) == 1_001


def test_an_archive_that_unpacks_to_far_more_is_not_read_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bomb costs no more than a bounded amount of unpacking."""
    monkeypatch.setattr("clip_search.indexing.tars._UNPACKED_BYTES_MIN", 1_000_000)
    path = pack(tmp_path / "a.tar.gz", {"first.png": PNG, "zeros.bin": bytes(50_000_000), "last.png": PNG})
    first, end = found_in(path)
    assert isinstance(first, FoundPicture)
    assert isinstance(end, Unusable)
    assert end.hides_pictures
    assert "unpacks to more than 200 times its size" in end.reason


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress], ids=["", "gz", "bz2", "xz"])
def test_a_header_of_any_length_is_not_read_at_once(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """A name of ten megabytes is damage, and so is one of a negative size, which would mean everything."""
    suffix = {bytes: "", gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}[compress]
    path = tmp_path / f"a.tar{suffix}"
    long_name = member("././@LongLink", 10_000_000, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(compress(long_name + bytes(10_000_000)))
    (end,) = found_in(path)
    assert isinstance(end, Unusable)
    assert "a header of 10,000," in end.reason
    negative = bytearray(member("././@LongLink", 512, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT))
    negative[124:136] = (2**96 - 2048).to_bytes(12, "big")  # -2048, in base 256
    negative[148:156] = b" " * 8
    negative[148:156] = b"%06o\0 " % sum(negative)
    path.write_bytes(compress(bytes(negative) + bytes(10_240)))
    (end,) = found_in(path)
    assert isinstance(end, Unusable)
    assert "a negative size" in end.reason


@pytest.mark.parametrize("name", KINDS)
def test_a_torn_archive_gives_what_is_whole(tmp_path: Path, name: str) -> None:
    """What can be read is given, and that there may be more is told."""
    noise = zlib.compress(bytes(range(256)) * 8) * 200
    path = pack(tmp_path / name, {"a.png": PNG, "b.png": noise, "c.png": PNG})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    *_, end = found_in(path)
    assert isinstance(end, Unusable)
    assert end.hides_pictures
    assert "cannot be read" in end.reason


def test_damage_between_members_is_not_the_end(tmp_path: Path) -> None:
    """Pictures behind a damaged header are not taken for vanished."""
    path = pack(tmp_path / "a.tar", {"a.png": PNG, "b.png": PNG})
    data = bytearray(path.read_bytes())
    data[1024:1034] = b"overwritten"[:10]
    path.write_bytes(data)
    first, end = found_in(path)
    assert isinstance(first, FoundPicture)
    assert isinstance(end, Unusable)
    assert "damage where the next header should be" in end.reason


def test_a_damaged_zip_member_says_so(tmp_path: Path) -> None:
    """The archive's own sum is checked."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", PNG)
    path.write_bytes(path.read_bytes().replace(PNG[20:40], bytes(20)))
    (found,) = found_in(path)
    assert isinstance(found, FoundPicture)
    with pytest.raises(UnreadableError, match="Bad CRC-32"):
        found.read(BYTES_MAX)


def test_zip_members_that_cannot_be_unpacked_within_bounds_are_refused(tmp_path: Path) -> None:
    """Encrypted ones, and those compressed in ways that cannot be unpacked in part."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", PNG)
    assert "otherwise than with Deflate" in problems(path)["a.png"]
    pack(path, {"a.png": PNG})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    assert problems(path)["a.png"] == "it is encrypted"


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_archive_says_so(program: Program, tmp_path: Path, name: str) -> None:
    """By its path; nothing is stored, and the exit code is 1."""
    path = tmp_path / name
    path.write_bytes(b"this is no archive, whatever its name may be" * 100)
    result = program("index", str(path))
    assert result.exit_code == 1
    assert f"failed: {path}: cannot be read" in result.stderr


def test_of_several_members_of_one_name_the_last_counts(server: FakeServer, program: Program, tmp_path: Path) -> None:
    """As for whoever unpacks the archive; indexing again does not bring the first one back."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for data in (PNG, PNG + b"later"):
            archive.addfile(member("a.png", len(data)), io.BytesIO(data))
    for _ in range(2):
        program("index", str(path))
        assert server.items["a.tar/a.png"].content.image == PNG + b"later"


@pytest.mark.parametrize("name", [*KINDS, "a.csv"])
def test_a_pipe_by_the_name_of_an_archive_is_not_opened(program: Program, tmp_path: Path, name: str) -> None:
    """It would be waited for, for ever."""
    os.mkfifo(tmp_path / name)
    result = program("index", str(tmp_path / name))
    assert result.exit_code == 1
    assert "not a picture by its name" in result.stderr
