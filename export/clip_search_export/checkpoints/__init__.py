"""From the files of a checkpoint to weights and settings, one module a layout; knows nothing of graphs.

`layouts.read_checkpoint` picks the module; `checkpoint.Checkpoint` is what each of them returns.
"""
