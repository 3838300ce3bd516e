"""What transformers makes of pictures and texts, for comparing it with what this project makes of them."""

from typing import Any

import numpy as np
import torch
from PIL import Image

__all__ = ["Reference"]


class Reference:
    """A dual encoder of transformers with its processor; who derives from it adds the texts and their tokens."""

    model: Any
    processor: Any
    pictures: list[Image.Image]

    @torch.inference_mode()
    def image_embeddings(self) -> np.ndarray:
        """Return what transformers makes of the pictures: (pictures, dim)."""
        pixels = self.processor(self.pictures, return_tensors="pt")["pixel_values"]
        return self._unit(self.model.get_image_features(pixel_values=pixels))

    @staticmethod
    def _unit(features: torch.Tensor) -> np.ndarray:
        return torch.nn.functional.normalize(features.double(), dim=-1).numpy()
