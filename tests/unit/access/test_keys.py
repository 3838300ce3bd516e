"""The file of API keys: what is read, what is refused in which words, and the keys that are valid."""

import datetime as dt
import json
import logging
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from clip_search_server.access.key_ring import KeyRing
from clip_search_server.access.keys import KEY_CHARS_MAX, Role, digest_of, new_key, read_keys
from clip_search_server.errors import FailedPreconditionError, UnauthenticatedError
from clip_search_server.key_commands import key as key_group

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
GOOD = {"name": "indexer", "hash": f"sha256:{DIGEST}", "role": "write"}


def written(folder: Path, content: object, name: str = "keys.json") -> Path:
    """Write a file of keys: text as it is, everything else as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_file_of_either_kind_is_read(tmp_path: Path) -> None:
    """TOML and JSON give the same entries; times are read as TOML's own and as texts."""
    toml = written(
        tmp_path,
        f'[[keys]]\nname = "a"\nhash = "sha256:{DIGEST}"\nrole = "admin"\n'
        'collections = ["photos", "photos-v2"]\nexpires = 2027-01-31T00:00:00Z\n',
        "keys.toml",
    )
    (entry,) = read_keys(toml)
    assert (entry.name, entry.digest.hex(), entry.role) == ("a", DIGEST, Role.ADMIN)
    assert entry.collections == frozenset({"photos", "photos-v2"})
    assert entry.expires == dt.datetime(2027, 1, 31, tzinfo=dt.UTC)
    fields = {"collections": ["photos-v2", "photos"], "expires": "2027-01-31T01:00:00+01:00"}
    assert read_keys(written(tmp_path, {"keys": [{**GOOD, "name": "a", "role": "admin", **fields}]})) == [entry]
    assert read_keys(written(tmp_path, "", "empty.toml")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "key 1 (None): a key's name has 1 to 64 of a-z"),
        ({"name": "two words"}, "key 1 (two words): a key's name has 1 to 64 of a-z"),
        ({"name": "x" * 65}, "a key's name has 1 to 64 of a-z"),
        ({"hash": DIGEST}, "key 1 (indexer): hash is sha256: and 64 hexadecimal digits, as clip-search key new prints"),
        ({"hash": f"sha256:{DIGEST.upper()}"}, "hash is sha256: and 64"),
        ({"hash": f"sha256:{DIGEST[1:]}"}, "hash is sha256: and 64"),
        ({"hash": 5}, "hash is sha256: and 64"),
        ({"role": "owner"}, "key 1 (indexer): role is one of read, write, admin"),
        ({"role": ["read"]}, "role is one of read, write, admin"),
        ({"role": "READ"}, "role is one of read, write, admin"),
        ({"collections": []}, "collections is a list of names; leave it out for all collections"),
        ({"collections": "photos"}, "collections is a list of names"),
        ({"collections": ["photos", "Photos"]}, "collections: Photos can be no collection's name"),
        ({"collections": [3]}, "collections: 3 can be no collection's name"),
        ({"expires": "2027-01-31"}, "expires is a time with its zone, such as 2027-01-31T00:00:00Z"),
        ({"expires": "soon"}, "expires is a time with its zone"),
        ({"expires": 1_800_000_000}, "expires is a time with its zone"),
        ({"expiry": "2027-01-31T00:00:00Z"}, "expiry is no field of a key; there is name, hash, role, collections"),
    ],
)
def test_a_wrong_entry_is_named_with_its_field(tmp_path: Path, change: dict[str, object], words: str) -> None:
    """With the file, and what is expected there."""
    path = written(tmp_path, {"keys": [{**GOOD, **change}]})
    with pytest.raises(FailedPreconditionError, match=re.escape(words)) as refused:
        read_keys(path)
    assert str(refused.value).startswith(f"--api-keys {path}: key 1 (")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("keys.toml", "[[keys]\n", "is no TOML: "),
        ("keys.json", "{", "is no JSON: "),
        ("keys.toml", '{"keys": []}', "is no TOML: "),
        ("keys.json", "[]", "only a list of [[keys]] belongs here; make an entry with clip-search key new"),
        ("keys.json", '{"keys": {}}', "only a list of [[keys]] belongs here"),
        ("keys.json", '{"key": []}', "only a list of [[keys]] belongs here"),
        ("keys.toml", 'name = "a"\n', "only a list of [[keys]] belongs here"),
        ("keys.json", '{"keys": [3]}', "key 1: is no table"),
        ("keys.json", {"keys": [GOOD, {**GOOD, "name": "b"}]}, "key 2: hash is that of another key (indexer)"),
        (
            "keys.json",
            {"keys": [GOOD, {**GOOD, "hash": f"sha256:{DIGEST[::-1]}"}]},
            "key 2: name is that of another key (indexer); each needs its own",
        ),
        ("keys.json", {"keys": [GOOD] * 1_001}, "has 1001 keys; at most 1000 are accepted"),
        ("keys.json", " " * (2**20 + 1), "has more than 1,048,576 bytes; is this the right file?"),
        (
            "keys.json",
            {"keys": [{"hash": f"sha256:{DIGEST}", "role": "read"}]},
            "key 1 (without a name): a key's name has",
        ),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: object, words: str) -> None:
    """Each kind of mistake has its own sentence."""
    path = written(tmp_path, content, name)
    with pytest.raises(FailedPreconditionError, match=re.escape(words)) as refused:
        read_keys(path)
    assert str(refused.value).startswith(f"--api-keys {path}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the system's reason; a folder and bytes that are no text are told as well."""
    with pytest.raises(FailedPreconditionError, match=r"gone\.toml: cannot be read \(No such file or directory\)"):
        read_keys(tmp_path / "gone.toml")
    with pytest.raises(FailedPreconditionError, match=r"cannot be read \(Is a directory\)"):
        read_keys(tmp_path)
    (tmp_path / "keys.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FailedPreconditionError, match="is no TOML"):
        read_keys(tmp_path / "keys.toml")


@pytest.mark.parametrize("name", ["keys.toml", "keys.json"])
@pytest.mark.parametrize("place", ["hash", "name", "role", "collections", "expires", "field"])
def test_a_key_that_stands_in_its_file_by_mistake_is_not_shown(tmp_path: Path, name: str, place: str) -> None:
    """Somebody may put the key where its hash, or something else, belongs: no message repeats it."""
    secret = new_key()
    value: dict[str, Any] = {"collections": [secret]} if place == "collections" else {place: secret}
    entry = {**GOOD, **(value if place != "field" else {secret: "x"})}
    lines = "".join(f"{field} = {json.dumps(value)}\n" for field, value in entry.items())
    path = written(tmp_path, {"keys": [entry]} if name == "keys.json" else f"[[keys]]\n{lines}", name)
    with pytest.raises(FailedPreconditionError) as refused:
        read_keys(path)
    assert secret not in str(refused.value)


def test_a_ring_needs_a_key_and_a_file_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No key at all would lock everybody out; a file that everybody can write lets everybody in, and is warned of."""
    with pytest.raises(
        FailedPreconditionError, match="holds no key, so nobody could call; append what clip-search key"
    ):
        KeyRing(written(tmp_path, {"keys": []}))
    path = written(tmp_path, {"keys": [GOOD]})
    path.chmod(0o644)
    KeyRing(path)
    assert "write it" not in caplog.text
    path.chmod(0o646)
    KeyRing(path)
    assert f"--api-keys {path}: everybody on this machine can write it; chmod o-w it" in caplog.text


def test_a_key_is_found_until_it_expires(tmp_path: Path) -> None:
    """Before its time it is its holder's, from then on nobody's; what is longer is none; all are refused alike."""
    now = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    text = new_key()
    entry = {**GOOD, "hash": f"sha256:{digest_of(text).hex()}", "expires": "2027-01-02T00:00:00Z"}
    times = [now]
    ring = KeyRing(written(tmp_path, {"keys": [entry]}), now=lambda: times[-1])
    caller = ring.find(text)
    assert (caller.name, caller.role, caller.collections) == ("indexer", Role.WRITE, None)
    times.append(now + dt.timedelta(days=1))
    messages = set()
    for wrong in (text, text[:-1], "", "x" * (KEY_CHARS_MAX + 1), "\udcff", "é"):
        with pytest.raises(UnauthenticatedError) as refused:
            ring.find(wrong)
        messages.add(str(refused.value))
        assert not wrong or wrong not in refused.value.reason
    assert messages == {"The API key is not valid here: it is unknown, expired or revoked."}


# ── clip-search key new ──────────────────────────────────────────────────────────────────────────────────────────────


def made(*arguments: str) -> Result:
    """Run `clip-search key new`."""
    return CliRunner().invoke(key_group, ["new", *arguments])


def test_a_new_key_opens_what_its_entry_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Entries go to the standard output, to be appended to a file; the key goes to the standard error alone."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "keys.toml"
    texts = {}
    for name, arguments in {
        "all": (),
        "some": ("--role", "write", "--collection", "b", "--collection", "a", "--expires", "90d"),
        "admin": ("--role", "admin", "--expires", "2099-01-31"),
    }.items():
        result = made("--name", name, *arguments)
        assert result.exit_code == 0
        (texts[name],) = re.findall(
            r"^key, shown this once: (clipsearch_[A-Za-z0-9_-]{43})$", result.stderr, re.MULTILINE
        )
        assert texts[name] not in result.stdout
        with file.open("a", encoding="utf-8") as appended:
            appended.write(result.stdout)
    ring = KeyRing(file)
    callers = {name: ring.find(text) for name, text in texts.items()}
    assert len(set(texts.values())) == 3
    assert [callers[name].role for name in texts] == [Role.READ, Role.WRITE, Role.ADMIN]
    assert [callers[name].collections for name in texts] == [None, {"a", "b"}, None]
    _, some, admin = tomllib.loads(file.read_text(encoding="utf-8"))["keys"]
    assert abs(some["expires"] - dt.datetime.now(dt.UTC) - dt.timedelta(days=90)) < dt.timedelta(minutes=1)
    assert admin["expires"] == dt.datetime(2099, 1, 31, tzinfo=dt.UTC)
    assert not any(text in caplog.text for text in texts.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing option '--name'"),
        (["--name", "two words"], "a key's name has 1 to 64 of"),
        (["--name", "a", "--role", "owner"], "'owner' is not one of 'read', 'write', 'admin'"),
        (["--name", "a", "--collection", "Photos"], "cannot be a name"),
        (["--name", "a", "--expires", "soon"], "'soon' is neither days, such as 90d, nor a time such as 2027-01-31"),
        (["--name", "a", "--expires", "0d"], "neither days"),
        (["--name", "a", "--expires", "2020-01-31"], "'2020-01-31' is past"),
        (["--name", new_key()], "does not begin with clipsearch_, as keys do"),
    ],
)
def test_a_key_that_cannot_be_is_a_usage_error(arguments: list[str], words: str) -> None:
    """Exit code 2, what would be right, and no key."""
    result = made(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "shown this once" not in result.output
