"""What `bench/bench_peers.py` is made of: the same model for every server, the servers, and their clients.

checkpoint.py   a ViT-B/32 of true shape with random weights and CLIP's own vocabulary
traced.py       its towers as the ONNX files that clip-as-service takes
servers.py      each server as a process from its own environment
protocols.py    how one request is put to each server
client.py       a process that loads a server and counts what its own work cost
load.py         how many clients at a time, and what all found together
inputs.py       texts of eight tokens and pictures of 224 pixels
agreement.py    whether every server gives the same embeddings
"""
