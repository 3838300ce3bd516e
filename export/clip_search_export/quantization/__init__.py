"""8-bit arithmetic for the processor: how products are quantized, and what is done so that little is lost.

    schemes.py      how one product is quantized: formulas, their simulation, the plan of a whole graph
    samples.py      the pictures and texts that are looked at
    calibration.py  runs a tower in FP32 and notes what enters each product
    smoothing.py    moves outlying channels from activations into weights (SmoothQuant)
    planning.py     chooses each product's scheme by its measured error
    variant.py      the steps in order, for one tower

Weights are signed, with a scale for each output; activations are unsigned. No scale depends on what else is in a batch.
Towers know nothing of all this: they ask `towers/products.py` for a product by name, and the plan says what it becomes.
"""
