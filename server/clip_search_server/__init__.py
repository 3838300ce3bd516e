"""The search server: encoders, the vector index, searching, and the gRPC services that expose them.

Importing this package alone imports none of its parts. It knows nothing about the client programs and nothing about
how bundles are exported; a bundle folder is all it needs.
"""
