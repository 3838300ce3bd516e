"""PyTorch as a contender, on any device; knows nothing of what is measured."""

from collections.abc import Callable
from pathlib import Path

import torch

from bench.towers.cases import Ids, Pixels, normalise
from bench.towers.contender import Embeddings, Work
from bench.towers.models import Model
from bench.towers.torch_towers import load_towers

__all__ = ["TorchTowers"]

_FORMATS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class TorchTowers:
    """Both towers; texts unpadded."""

    def __init__(
        self, checkpoint: Path, model: Model, dtype: torch.dtype, device: str = "cpu", *, compiled: bool = False
    ) -> None:
        """Load the towers; `compiled` asks for torch.compile with CUDA graphs, one compilation a shape."""
        self._model, self._dtype, self._device = model, dtype, device
        self.number_format = _FORMATS[dtype]
        towers = load_towers(checkpoint, dtype)
        towers.module.to(device)
        self._image, self._text, self._memory_format = towers.image, towers.text, towers.memory_format
        if compiled:
            self._image, self._text = (
                torch.compile(f, mode="reduce-overhead", dynamic=False) for f in (towers.image, towers.text)
            )

    def images(self, pixels: Pixels) -> Work:
        """Return what embeds these pictures."""
        values = torch.from_numpy(normalise(pixels, self._model)).to(self._dtype)
        return self._work(self._image, values.contiguous(memory_format=self._memory_format))

    def texts(self, ids: Ids) -> Work:
        """Return what embeds these texts."""
        return self._work(self._text, torch.from_numpy(ids))

    def _work(self, embed: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> Work:
        inputs = inputs.to(self._device)

        @torch.inference_mode()
        def run() -> Embeddings:
            return embed(inputs).float().cpu().numpy()

        return run
