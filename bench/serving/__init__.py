"""What `bench_serving.py` and `bench_telemetry.py` are made of: client processes, the bare towers, a server's memory.

bundles.py  the bundles that are served
client.py   a process that loads a server and counts what its own work cost
load.py     starts client processes together and adds up what they found
inputs.py   pictures and texts that no cache has seen
bare.py     the towers without a server around them
memory.py   how much memory a process holds over time
bars.py     which figure must be how good
"""
