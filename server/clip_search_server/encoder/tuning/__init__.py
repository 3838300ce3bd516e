"""How large batches should be and how many threads a tower should have, measured; knows nothing of requests.

timings.py   what was measured, and what follows from it
measure.py   runs a tower on batches of several shapes, with several numbers of threads
cache.py     keeps what was measured, so that it is done once for a bundle, processor and runtime

Measured at the first start of a bundle on a machine, taken from the cache at later ones, and refined in idle time after
a start, because a measurement is only ever too slow: something else was running.
"""
