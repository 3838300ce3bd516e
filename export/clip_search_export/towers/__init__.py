"""The graphs of the towers, one module a kind: each reads next to the paper that it implements.

A tower module takes weights and a builder, and authors the graph that computes unit-length embeddings from the raw
inputs of the bundle contract. Knows nothing of checkpoints and files.
"""
