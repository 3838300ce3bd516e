"""What `docs/clients.md` tells people to copy is what the client itself does."""

import json
import re
from pathlib import Path

from clip_search.cli.settings import API_KEY_VARIABLE, shared_options
from clip_search.methods import METHODS
from clip_search.retries import RetryPolicy, service_config

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "clients.md").read_text(encoding="utf-8")


def test_the_service_config_is_the_clients_own() -> None:
    """Other languages get the same retries as Python."""
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert json.loads(shown) == json.loads(service_config(RetryPolicy(), METHODS))


def test_the_programs_options_for_security_are_told() -> None:
    """Each option is on the page, and its variable is named after it."""
    for option in shared_options(from_environment=True):
        name = option.opts[0]
        if name.startswith(("--tls", "--api-key")):
            assert f"`{name}`" in PAGE or name == "--api-key-without-tls"
            assert option.envvar == "CLIP_SEARCH_" + name.removeprefix("--").replace("-", "_").upper()
    assert API_KEY_VARIABLE in PAGE
