"""Messages and stubs of the public API, generated from `proto/clip_search/v1`; never edited by hand.

Import the module of a concept: `from clip_search.v1 import search_pb2, search_pb2_grpc`.
"""

__all__: list[str] = []
