"""The fallback exporter: any dual encoder that optimum-onnx can trace becomes the bundle that the other exporter makes.

model.py       the one module that imports PyTorch, transformers and optimum: loads, traces, gives the reference
settings.py    tokenizer, pooled token and preprocessing, from the same readers as the other exporter's
joint.py       cuts a traced graph into its two towers
contract.py    puts the bundle's inputs before a tower and unit length behind it
exporter.py    the steps in order
"""
