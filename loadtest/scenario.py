"""One run's settings, as one text that goes to every Locust process, on other machines too; knows nothing of Locust.

Files are named, never carried: an API key is read by each process from its own machine's file.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache

from clip_search.client import Client
from clip_search.connection import Target
from clip_search.credentials import TlsOptions, read_api_key
from loadtest.profiles import PROFILES, Profile

__all__ = ["Scenario", "connect", "read_scenario"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a run is made of.

    Attributes:
        host: HOST:PORT of the server.
        profile_name: one of `PROFILES`.
        users: how many there are at the peak.
        seconds: how long the run lasts.
        collection: the collection that is searched; empty means `default`.
        stored_in: the collection that pictures are stored in, and which is deleted afterwards; empty without ingesters.
        pictures: folder of PNG or JPEG files to send.
        texts: file of texts to search for, one a line; empty means the sample pictures' names.
        tls: whether the connection is encrypted, with the four fields of `TlsOptions` that follow.
        api_key_file: file that holds the API key; empty without one.
    """

    host: str
    profile_name: str
    users: int
    seconds: float
    pictures: str
    collection: str = ""
    stored_in: str = ""
    texts: str = ""
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    api_key_file: str = ""

    @property
    def profile(self) -> Profile:
        """Who takes part, and when."""
        return PROFILES[self.profile_name]

    def text(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))


@cache
def read_scenario(text: str) -> Scenario:
    """Return the scenario that `Scenario.text` gave as text."""
    return Scenario(**json.loads(text))


class _OwnConnection(Client):
    """A client that shares its connection with none of its process: the server takes turns between connections."""

    def _open(self, target: Target) -> None:
        options = (*target.options, ("grpc.use_local_subchannel_pool", 1))
        super()._open(Target(target.address, target.credentials, options))


def connect(scenario: Scenario, *, timeout_seconds: float, collection: str | None = None) -> Client:
    """Return a client of the server, which never tries again by itself: each refusal is one that is counted.

    Args:
        scenario: how the server is reached.
        timeout_seconds: the deadline of each call.
        collection: which one calls are about; by default the scenario's.

    Raises:
        CredentialsError: certificates or the key cannot be used.
    """
    tls = None
    if scenario.tls:
        tls = TlsOptions(
            scenario.ca or None, scenario.certificate or None, scenario.key or None, server_name=scenario.server_name
        )
    return _OwnConnection(
        scenario.host,
        collection=scenario.collection if collection is None else collection,
        timeout_seconds=timeout_seconds,
        tls=tls,
        api_key=read_api_key(scenario.api_key_file) if scenario.api_key_file else None,
        retry=None,
        resume=None,
    )
