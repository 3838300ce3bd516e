"""Files of API keys for tests, and calls that carry a key."""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clip_search_server.access.keys import digest_of, new_key


@dataclass
class Keys:
    """A file of keys that tests change while a server reads it."""

    path: Path
    entries: dict[str, dict[str, object]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def add(
        self, name: str, role: str, collections: list[str] | None = None, expires: dt.datetime | None = None
    ) -> None:
        """Add a key; `write` makes it count."""
        self.texts[name] = new_key()
        entry: dict[str, object] = {"name": name, "hash": f"sha256:{digest_of(self.texts[name]).hex()}", "role": role}
        if collections is not None:
            entry["collections"] = collections
        if expires is not None:
            entry["expires"] = expires.isoformat()
        self.entries[name] = entry

    def write(self) -> None:
        """Replace the file."""
        coming = self.path.with_suffix(".coming")
        coming.write_text(json.dumps({"keys": list(self.entries.values())}), encoding="utf-8")
        coming.replace(self.path)

    def revoke(self, name: str) -> None:
        """Take a key out of the file."""
        del self.entries[name]
        self.write()

    def metadata(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return what a call under this key carries."""
        return bearer(self.texts[name])


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """Return what a call with `key` carries."""
    return (("authorization", f"Bearer {key}"),)


#: A good request for each method, which changes nothing; as fields of its message.
REQUESTS: Mapping[str, Mapping[str, object]] = {
    "Embed": {"inputs": [{"text": "a red square"}]},
    "Search": {"parts": [{"content": {"vector": {"values": [1.0] * 192}}}]},
    "Classify": {"image": {"item_id": "first"}, "labels": ["red"]},
    "Upsert": {"items": [{"id": "", "content": {"vector": {"values": [1.0] * 192}}}]},
    "Ingest": {"item": {"id": "", "content": {"vector": {"values": [1.0] * 192}}}},
    "Delete": {"ids": {"ids": ["no such item"]}},
    "GetItems": {"ids": ["first"]},
    "ListItems": {},
    "GetThumbnails": {"ids": ["first"]},
    "GetImage": {"id": "first"},
    "GetStats": {},
    "CreateSnapshot": {},
    "CreateCollection": {},
    "ListCollections": {},
    "DeleteCollection": {},
    "SetAlias": {"alias": "no-such-alias"},
    "GetServerInfo": {},
}
