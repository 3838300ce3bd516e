"""The figures, in NumPy alone: arrays in, numbers out. Each module cites where its definition comes from.

    arrays.py        the types of the arrays
    ranks.py         where the first right candidate of each query comes, and what ties do
    retrieval.py     recall at k, median rank, mean reciprocal rank
    calibration.py   confidence against accuracy: reliability diagram, expected calibration error
    auroc.py         how well scores separate two kinds
    geometry.py      modality gap, alignment, uniformity
    bootstrap.py     intervals, and intervals of differences
    significance.py  exact tests of pairs: McNemar's and the sign test

They know nothing of pictures, texts, models, files and servers.
"""
