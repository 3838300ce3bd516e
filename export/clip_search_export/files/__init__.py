"""A checkpoint's files: which of them hold the weights, and their formats, read as data; knows nothing of models."""
