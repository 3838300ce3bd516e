"""Augmentation of a batch of RGBA drawings into RGB training pictures, in PyTorch; knows nothing of files and captions.

The model must see past style: backgrounds from white to busy, outlines like those of line art, shifts of colour, size,
position and angle. Everything works on the whole batch at once, because two processor cores feed the training.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own abbreviation

_LUMINANCE = (0.299, 0.587, 0.114)


def augment(rgba: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return random training pictures of drawings.

    Args:
        rgba: uint8 (batch, 4, height, width), transparency not premultiplied.
        size: side of the result in pixels.
        generator: source of all randomness.

    Returns:
        float32 (batch, 3, size, size) in 0..1.
    """
    batch = len(rgba)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    def chance(probability: float) -> Tensor:
        return (uniform(0, 1, 1, 1, 1) < probability).float()

    pixels = rgba.float() / 255
    pixels = torch.cat([pixels[:, :3] * pixels[:, 3:], pixels[:, 3:]], dim=1)  # premultiplied, so that edges stay clean
    pixels = _transform(pixels, size, uniform)
    colour, alpha = pixels[:, :3], pixels[:, 3:].clamp(0, 1)
    colour = _shift_colours(colour, alpha, uniform, chance)
    background = _backgrounds(_luminance(colour) / alpha.mean((1, 2, 3)).clamp(min=0.02), size, uniform)
    thickness = 3 if uniform(0, 1)[0] < 0.5 else 5  # noqa: PLR2004 - pixels; one for the whole batch
    outline = F.max_pool2d(alpha, thickness, stride=1, padding=thickness // 2) * chance(0.45)
    outline_colour = uniform(0, 0.2, 1, 1, 1)
    drawn = colour + (1 - alpha) * (outline * outline_colour + (1 - outline) * background)
    drawn = drawn * (1 - _edges(drawn, thickness) * chance(0.4))
    noise = torch.randn(drawn.shape, generator=generator) * uniform(0, 0.03, 1, 1, 1)
    return (drawn + noise * chance(0.3)).clamp(0, 1)


def _transform(pixels: Tensor, size: int, uniform: "Uniform") -> Tensor:  # type: ignore[name-defined]  # noqa: F821
    """Rotate, scale, stretch and shift; a part of the drawing may leave the frame a little."""
    angle = uniform(-0.25, 0.25) * (uniform(0, 1) < 0.6).float()  # noqa: PLR2004
    scale_x = uniform(0.92, 1.7)
    scale_y = scale_x * uniform(0.9, 1.1)
    cosine, sine = angle.cos(), angle.sin()
    row_x = torch.stack([cosine * scale_x, -sine * scale_x, uniform(-0.18, 0.18)], dim=1)
    row_y = torch.stack([sine * scale_y, cosine * scale_y, uniform(-0.18, 0.18)], dim=1)
    grid = F.affine_grid(torch.stack([row_x, row_y], dim=1), [len(pixels), 4, size, size], align_corners=False)
    if size < pixels.shape[-1]:
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return F.grid_sample(pixels, grid, mode="bilinear", align_corners=False)


def _luminance(colour: Tensor) -> Tensor:
    weights = torch.tensor(_LUMINANCE).view(1, 3, 1, 1)
    return (colour * weights).sum(1).mean((1, 2))


def _shift_colours(colour: Tensor, alpha: Tensor, uniform: "Uniform", chance: "Chance") -> Tensor:  # type: ignore[name-defined]  # noqa: F821
    """Vary saturation, contrast, brightness and tint, a few to grey."""
    grey = (colour * torch.tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = uniform(0.5, 1.4, 1, 1, 1) * (1 - chance(0.05))
    colour = grey + (colour - grey) * saturation
    colour = (colour - 0.5 * alpha) * uniform(0.75, 1.25, 1, 1, 1) + 0.5 * alpha
    colour = colour * uniform(0.88, 1.12, 3, 1, 1) + alpha * uniform(-0.08, 0.08, 1, 1, 1)
    return torch.minimum(colour.clamp(min=0), alpha)


def _backgrounds(drawing_luminance: Tensor, size: int, uniform: "Uniform") -> Tensor:  # type: ignore[name-defined]  # noqa: F821
    """Return (batch, 3, size, size): white, light, coloured, gradient, dark or busy; dark drawings get light ones."""
    kind = uniform(0, 1, 1, 1, 1)
    light = 1 - uniform(0, 0.22, 3, 1, 1) * uniform(0, 1, 1, 1, 1)
    solid = uniform(0, 1, 3, 1, 1)
    corners = uniform(0, 1, 3, 2, 2)
    gradient = F.interpolate(corners, size=(size, size), mode="bilinear", align_corners=True)
    busy = F.interpolate(uniform(0, 1, 3, 7, 7), size=(size, size), mode="bicubic", align_corners=True)
    dark = uniform(0, 0.25, 3, 1, 1)
    chosen = torch.where(kind < 0.35, torch.ones(1, 3, size, size), light)  # noqa: PLR2004
    for threshold, candidate in ((0.52, solid), (0.68, gradient), (0.82, busy), (0.92, dark)):
        chosen = torch.where(kind > threshold, candidate, chosen)
    too_dark = (drawing_luminance < 0.18).float().view(-1, 1, 1, 1)  # noqa: PLR2004
    return chosen * (1 - too_dark) + (0.75 + 0.25 * chosen) * too_dark


def _edges(picture: Tensor, thickness: int) -> Tensor:
    """Return (batch, 1, size, size) in 0..1: where brightness changes sharply, as an inked line would stand."""
    grey = (picture * torch.tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
    spread = F.max_pool2d(grey, thickness, 1, thickness // 2) + F.max_pool2d(-grey, thickness, 1, thickness // 2)
    return ((spread - 0.12) * 4).clamp(0, 0.95)
