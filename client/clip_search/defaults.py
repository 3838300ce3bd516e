"""Values that the client takes when told nothing; light, so that the program's help can state them."""

__all__ = ["DEFAULT_RESUME_SECONDS", "DEFAULT_SERVER", "DEFAULT_TIMEOUT_SECONDS", "MESSAGE_BYTES_MAX"]

DEFAULT_SERVER = "localhost:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0

#: How long a stream tries to go on after its connection broke.
DEFAULT_RESUME_SECONDS = 120.0

#: The server's default for `Limits.message_bytes_max`.
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
