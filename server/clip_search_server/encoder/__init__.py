"""From bytes and text to unit vectors: pixels, tokens, inference sessions, batching.

Knows nothing of gRPC, of the index or of how a bundle was made. Import the modules; this file imports nothing, so that
pixels and tokens can be used without an inference runtime.
"""
