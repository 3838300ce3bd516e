"""The towers in plain NumPy, float64, for comparison: each function says what its paper says, step by step.

Nothing is folded, fused, trimmed or left out here, and no function is shared with the towers that are authored: that is
the point. Slow (a second or so for a picture of ViT-L/14), clear, and free of any framework. Knows nothing of ONNX.
"""
