"""The search client: the `clip-search` launcher, the `search_client` program and the generated protocol stubs.

This package talks to a server through the public protocol alone. It knows nothing about models, indexes or files on
the server's side, and importing it never imports the server, the exporter or an inference runtime.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
