"""Values that the client takes when told nothing; light, so that the program's help can state them."""

__all__ = ["DEFAULT_SERVER", "DEFAULT_TIMEOUT_SECONDS"]

DEFAULT_SERVER = "localhost:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0
