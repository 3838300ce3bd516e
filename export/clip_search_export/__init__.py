"""From a CLIP checkpoint to a model bundle: reads weights, authors ONNX graphs, proves them against a reference.

`exporter.export` is the whole job; `commands` holds its command line. Knows nothing of servers or indexes, and needs no
deep-learning framework.
"""
