"""The file of API keys, and new keys for it; knows nothing of who calls.

The file is TOML, or JSON where its name ends in `.json`, with the same fields:

    [[keys]]
    name = "indexer"                         what logs call it; unique
    hash = "sha256:9f86d081884c7d65…"        of the key's text
    role = "write"                           read, write or admin; each may do what the one before may
    collections = ["photos", "photos-v2"]    optional: the only names it may use, of collections and of aliases
    expires = 2027-01-31T00:00:00Z           optional: when it ends

The file holds no key, only what keys are recognised by. A key is 32 random bytes, so nobody finds one by trying, with
the digest in hand or without: what slow hashes protect is words that people think up. A fast digest keeps refusing
strangers cheap.

A name in `collections` is compared with the name in the request as it is written there, without looking anything up: a
key for an alias goes on when the alias moves, and what it may not name it cannot learn about.
"""

import datetime as dt
import enum
import hashlib
import json
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from clip_search_server.access.files import read_bounded
from clip_search_server.errors import FailedPreconditionError

__all__ = ["KEY_CHARS_MAX", "KeyEntry", "Role", "check_key_name", "digest_of", "new_key", "read_keys", "toml_of"]

#: A longer text is no key, and is not hashed to find that out.
KEY_CHARS_MAX = 256

_OPTION = "--api-keys"
_KEY_PREFIX = "clipsearch_"  # lets programs that look for leaked secrets recognise one
_KEY_BYTES = 32
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_KEYS_MAX = 1_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME_RULE = "1 to 64 of a-z, A-Z, 0-9, dot, _ and -, the first a letter or a digit"
_COLLECTION = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_FIELDS = ("name", "hash", "role", "collections", "expires")


class Role(enum.IntEnum):
    """What a key may do; a higher one may do what lower ones may."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key as the file has it.

    Attributes:
        digest: SHA-256 of the key's text.
        collections: names it may use; None for all.
        expires: when it ends, with its time zone; None for never.
    """

    name: str
    digest: bytes
    role: Role
    collections: frozenset[str] | None = None
    expires: dt.datetime | None = None


def digest_of(key: str) -> bytes:
    """Return what a key is recognised by."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def new_key() -> str:
    """Return a key that nobody has."""
    return _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def toml_of(entry: KeyEntry) -> str:
    """Return the lines that an entry has in the file."""
    table = tomlkit.table()
    table["name"] = entry.name
    table["hash"] = _HASH_PREFIX + entry.digest.hex()
    table["role"] = entry.role.name.lower()
    if entry.collections is not None:
        table["collections"] = sorted(entry.collections)
    if entry.expires is not None:
        table["expires"] = entry.expires
    document = tomlkit.document()
    document["keys"] = tomlkit.aot()
    document["keys"].append(table)
    return tomlkit.dumps(document).strip() + "\n"


def check_key_name(name: str) -> None:
    """Raise ValueError with the rule where `name` breaks it."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a key's name has {_NAME_RULE}")
    if name.startswith(_KEY_PREFIX):
        raise ValueError(f"a key's name does not begin with {_KEY_PREFIX}, as keys do: logs show names")


def read_keys(path: Path) -> list[KeyEntry]:
    """Return the entries of a file.

    Raises:
        FailedPreconditionError: it cannot be read, or an entry is wrong; the message names the entry and its field.
    """
    content = read_bounded(path, _OPTION)
    try:
        text = content.decode()
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise FailedPreconditionError(f"{_OPTION} {path}: is no {kind}: {error}") from error
    try:
        return _entries_of(data)
    except ValueError as error:
        raise FailedPreconditionError(f"{_OPTION} {path}: {error}") from error


def _entries_of(data: object) -> list[KeyEntry]:
    tables = data.get("keys", []) if isinstance(data, dict) and data.keys() <= {"keys"} else None
    if not isinstance(tables, list):
        raise ValueError("only a list of [[keys]] belongs here; make an entry with clip-search key new")  # noqa: TRY004
    if len(tables) > _KEYS_MAX:
        raise ValueError(f"has {len(tables)} keys; at most {_KEYS_MAX} are accepted")
    entries = [_entry_of(table, number) for number, table in enumerate(tables, 1)]
    for field in ("name", "digest"):
        values = [getattr(entry, field) for entry in entries]
        for number, value in enumerate(values):
            if value in values[:number]:
                name = entries[values.index(value)].name
                shared = "name" if field == "name" else "hash"
                raise ValueError(f"key {number + 1}: {shared} is that of another key ({name}); each needs its own")
    return entries


def _entry_of(table: object, number: int) -> KeyEntry:
    """Return one entry; messages never quote what may be a key that was put there by mistake."""
    if not isinstance(table, dict):
        raise ValueError(f"key {number}: is no table; make an entry with clip-search key new")  # noqa: TRY004
    where = f"key {number} ({_shown(table.get('name', 'without a name'))})"
    unknown = sorted(table.keys() - set(_FIELDS))
    if unknown:
        raise ValueError(f"{where}: {_shown(unknown[0])} is no field of a key; there is {', '.join(_FIELDS)}")
    try:
        return KeyEntry(
            _name_from(table), _digest_from(table), _role_from(table), _collections_from(table), _expiry_from(table)
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _shown(value: object) -> object:
    """Return what a message quotes of a value."""
    return "a key itself, which nobody should keep here" if _KEY_PREFIX in str(value) else value


def _name_from(table: Mapping[str, Any]) -> str:
    name = table.get("name")
    if not isinstance(name, str):
        raise ValueError(f"a key's name has {_NAME_RULE}")  # noqa: TRY004 - as all that is wrong with an entry
    check_key_name(name)
    return name


def _digest_from(table: Mapping[str, Any]) -> bytes:
    value = table.get("hash")
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError("hash is sha256: and 64 hexadecimal digits, as clip-search key new prints it")
    return bytes.fromhex(value.removeprefix(_HASH_PREFIX))


def _role_from(table: Mapping[str, Any]) -> Role:
    names = [role.name.lower() for role in Role]
    if table.get("role") not in names:
        raise ValueError(f"role is one of {', '.join(names)}")
    return Role[str(table["role"]).upper()]


def _collections_from(table: Mapping[str, Any]) -> frozenset[str] | None:
    if "collections" not in table:
        return None
    names = table["collections"]
    if not isinstance(names, list) or not names:
        raise ValueError("collections is a list of names; leave it out for all collections")
    for name in names:
        if not isinstance(name, str) or not _COLLECTION.fullmatch(name):
            raise ValueError(f"collections: {_shown(name)} can be no collection's name ([a-z0-9][a-z0-9_-]{{0,63}})")
    return frozenset(names)


def _expiry_from(table: Mapping[str, Any]) -> dt.datetime | None:
    if "expires" not in table:
        return None
    value = table["expires"]
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise ValueError("expires is a time with its zone, such as 2027-01-31T00:00:00Z")
    return value
