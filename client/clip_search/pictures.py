"""Tells formats of encoded pictures by their first bytes, and how large they may be; decodes nothing."""

from clip_search.results import Limits

__all__ = ["BROWSER_MEDIA_TYPES", "media_type_of", "picture_bytes_max"]

# What a message holds beside the picture: id, attributes, framing.
_MESSAGE_OVERHEAD_BYTES = 64 * 1024

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)

# What every browser shows. TIFF and HEIC are not among them.
BROWSER_MEDIA_TYPES = frozenset({"image/avif", "image/bmp", "image/gif", "image/jpeg", "image/png", "image/webp"})


def media_type_of(picture: bytes) -> str | None:
    """Give the media type that a picture's first bytes tell; None for anything else."""
    if picture[4:12] in {b"ftypavif", b"ftypavis"}:
        return "image/avif"
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in _SIGNATURES if picture.startswith(signature)), None)


def picture_bytes_max(limits: Limits) -> int:
    """Give the size that a picture may have: a message beyond the server's bound would end a whole stream."""
    return min(limits.image_bytes_max, limits.message_bytes_max - _MESSAGE_OVERHEAD_BYTES)
