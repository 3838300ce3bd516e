"""What the benchmarks of the index are made of.

vectors.py      vectors like a CLIP model's, from vectors.json, which fit_vectors.py fits to the demo model
data.py         items and queries of them
fill.py         builds a collection
measure.py      asks it: clients.py in closed and open loops, while heart.py feels how late the event loop is
resident.py     what of a process lies in memory
"""
