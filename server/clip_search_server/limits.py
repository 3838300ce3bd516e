"""The bound on everything a request may ask for; knows nothing of what enforces them.

Each field is also a field of the API's `Limits` message (`proto/clip_search/v1/server.proto`) and an option of
`clip-search serve`.
"""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest values that are accepted; beyond one, a request is refused with the name of the field."""

    message_bytes_max: int = 64 * 2**20
    items_per_request_max: int = 1_000
    image_bytes_max: int = 32 * 2**20
    image_pixels_max: int = 100_000_000
    text_chars_max: int = 10_000
    search_limit_max: int = 1_000
    query_parts_max: int = 32
    labels_max: int = 1_000
    templates_max: int = 100
    page_size_max: int = 1_000
    id_bytes_max: int = 512
    attributes_max: int = 64
    attributes_bytes_max: int = 16_384
    thumbnail_bytes_max: int = 256 * 2**10
    filter_conditions_max: int = 256
    filter_depth_max: int = 16
    queue_length_max: int = 1_024
    ingest_streams_max: int = 16
    collections_max: int = 64
    calls_max: int = 512
    bytes_in_flight_max: int = 512 * 2**20
    queue_seconds_max: int = 10

    @property
    def waiting_per_request(self) -> int:
        """How many inputs of one request wait for a tower at a time, so that none fills the queue alone."""
        return max(1, min(128, self.queue_length_max // 4))
