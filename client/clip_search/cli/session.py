"""Makes a client from the settings, and reads the files that commands are given.

A key on the command line could be read by everybody on the machine, so there is no option for one: it comes from a file
or from the environment.
"""

import os
from pathlib import Path

from clip_search.cli.output import CommandError
from clip_search.cli.settings import API_KEY_VARIABLE, Settings
from clip_search.client import Client
from clip_search.contents import Image
from clip_search.credentials import TlsOptions, read_api_key
from clip_search.defaults import DEFAULT_RESUME_SECONDS
from clip_search.resuming import ResumePolicy

__all__ = ["connect", "connect_to", "read_image"]


def connect(settings: Settings, *, resume_seconds: float = DEFAULT_RESUME_SECONDS) -> Client:
    """Give a client for what the settings name; nothing is sent yet.

    Raises:
        CredentialsError: certificates, keys or the API key cannot be used.
    """
    return connect_to(settings, settings.collection, settings.model, resume_seconds=resume_seconds)


def connect_to(
    settings: Settings,
    collection: str = "",
    model: str = "",
    *,
    resume_seconds: float = DEFAULT_RESUME_SECONDS,
) -> Client:
    """Give a client of the server that the settings name, about this collection and this model."""
    return Client(
        settings.server,
        collection=collection,
        model=model,
        timeout_seconds=settings.timeout_seconds,
        tls=_tls(settings),
        api_key=_api_key(settings),
        api_key_without_tls=settings.api_key_without_tls,
        resume=ResumePolicy(seconds_max=resume_seconds) if resume_seconds else None,
    )


def _tls(settings: Settings) -> TlsOptions | None:
    files = (settings.tls_ca, settings.tls_certificate, settings.tls_key)
    if not (settings.tls or settings.tls_server_name or any(files)):
        return None
    return TlsOptions(*files, settings.tls_server_name)


def _api_key(settings: Settings) -> str | None:
    if settings.api_key_file is not None:
        return read_api_key(settings.api_key_file)
    return os.environ.get(API_KEY_VARIABLE) or None


def read_image(path: Path) -> Image:
    """Read a picture file; the server tells whether it is one.

    Raises:
        CommandError: the file cannot be read.
    """
    try:
        return Image(path.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror or error}", code="FILE", path=str(path)) from error
