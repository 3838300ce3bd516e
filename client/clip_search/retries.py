"""When a call that failed is sent again, as the service config that gRPC itself carries out (gRPC proposal A6).

gRPC sends a call again when the server is UNAVAILABLE or RESOURCE_EXHAUSTED, within the call's deadline, and only
before anything of an answer has come. Where the server says when (`grpc-retry-pushback-ms`), that counts instead of the
backoff, and a negative number means never. It knows nothing of connections and of how streams go on (`resuming.py`).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clip_search.methods import Method

__all__ = ["ATTEMPTS_MAX", "RetryPolicy", "service_config"]

#: gRPC's own bound: it takes more for this many.
ATTEMPTS_MAX = 5

_ATTEMPTS_MIN = 2


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast a call is sent again; the defaults last about 1.3 seconds, those of a short hiccup.

    Args:
        attempts_max: how often it is sent in all, 2 to 5.
        backoff_initial_seconds: about how long to wait before the second time; gRPC varies it by a fifth.
        backoff_multiplier: by how much each wait is longer than the one before.
        backoff_seconds_max: the longest wait, unless the server names a time.

    Raises:
        ValueError: gRPC would not take it.
    """

    attempts_max: int = 4
    backoff_initial_seconds: float = 0.1
    backoff_multiplier: float = 3.0
    backoff_seconds_max: float = 2.0

    def __post_init__(self) -> None:
        if not _ATTEMPTS_MIN <= self.attempts_max <= ATTEMPTS_MAX:
            raise ValueError(
                f"attempts_max is {self.attempts_max}; gRPC takes {_ATTEMPTS_MIN} to {ATTEMPTS_MAX}. "
                "For no second attempt, give the client retry=None."
            )
        for name in ("backoff_initial_seconds", "backoff_multiplier", "backoff_seconds_max"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be more than 0")


def service_config(policy: RetryPolicy, methods: Iterable[Method[Any, Any]]) -> str:
    """Return the service config, JSON, under which gRPC retries the repeatable ones of `methods`."""
    config = {
        "methodConfig": [
            {
                "name": [{"service": each.service, "method": each.name} for each in methods if each.repeatable],
                "retryPolicy": {
                    "maxAttempts": policy.attempts_max,
                    "initialBackoff": f"{policy.backoff_initial_seconds:.9f}s",
                    "maxBackoff": f"{policy.backoff_seconds_max:.9f}s",
                    "backoffMultiplier": policy.backoff_multiplier,
                    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
                },
            }
        ]
    }
    return json.dumps(config)
