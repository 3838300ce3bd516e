"""The demo models in PyTorch: a CLIP with a ModifiedResNet or a ViT image tower and a causal text transformer.

Follows section 2.4 of the CLIP paper (Radford et al. 2021, arXiv:2103.00020): a ResNet-D with three stem convolutions,
anti-aliased strides and attention pooling, or a vision transformer with a normalization before its blocks; a GPT-2
style text encoder read at its end-of-text token. Parameter names are those of OpenCLIP checkpoints, so that the
exporter's OpenCLIP reader is what reads these weights. Knows nothing of losses and data.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own abbreviation


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of both towers, named as in OpenCLIP; the defaults are the demo's ResNet.

    A ViT has `vision_layers` as one number and a `vision_patch_size`.
    """

    embed_dim: int = 192
    image_size: int = 96
    vision_layers: tuple[int, int, int, int] | int = (2, 2, 2, 2)
    vision_width: int = 20
    vision_patch_size: int | None = None
    context_length: int = 32
    vocab_size: int = 6144
    text_width: int = 192
    text_heads: int = 3
    text_layers: int = 4


RESNET = ModelConfig()
VIT = ModelConfig(vision_layers=6, vision_width=192, vision_patch_size=12)
"""The ResNet's twin: an image tower of about as many parameters, everything else the same."""


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; an average pool does the striding."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.downsample: nn.Module | None = None
        if stride > 1 or inplanes != planes * 4:
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(inplanes, planes * 4, 1, bias=False)),
                        ("1", nn.BatchNorm2d(planes * 4)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inplanes, h, w) to (batch, 4·planes, h/stride, w/stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class AttentionPool2d(nn.Module):
    """Pools a grid of features by one query: the grid's mean attends to every cell."""

    def __init__(self, grid: int, width: int, heads: int, output_dim: int) -> None:
        super().__init__()
        self.grid, self.heads = grid, heads
        self.positional_embedding = nn.Parameter(torch.randn(grid * grid + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, grid, grid) to (batch, output_dim)."""
        grid = x.shape[-1]
        cells = x.flatten(2).transpose(1, 2)  # (batch, cells, width)
        positions = interpolate_positions(self.positional_embedding, self.grid, grid)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], dim=1) + positions.to(x.dtype)
        batch, count, width = tokens.shape
        q = self.q_proj(tokens[:, :1]).view(batch, 1, self.heads, -1).transpose(1, 2)
        k = self.k_proj(tokens).view(batch, count, self.heads, -1).transpose(1, 2)
        v = self.v_proj(tokens).view(batch, count, self.heads, -1).transpose(1, 2)
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, width)
        return self.c_proj(pooled)


class ModifiedResNet(nn.Module):
    """The image tower: three-convolution stem, four stages, attention pool."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self._inplanes = width
        if isinstance(config.vision_layers, int):
            raise TypeError("a ResNet has blocks in four stages, not one number of layers.")
        blocks = config.vision_layers
        self.layer1 = self._stage(width, blocks[0], 1)
        self.layer2 = self._stage(width * 2, blocks[1], 2)
        self.layer3 = self._stage(width * 4, blocks[2], 2)
        self.layer4 = self._stage(width * 8, blocks[3], 2)
        heads = width * 32 // 64
        self.attnpool = AttentionPool2d(config.image_size // 32, width * 32, heads, config.embed_dim)
        for name, parameter in self.named_parameters():
            if name.endswith("bn3.weight") and name.startswith("layer"):
                nn.init.zeros_(parameter)

    def _stage(self, planes: int, blocks: int, stride: int) -> nn.Sequential:
        layers = [Bottleneck(self._inplanes, planes, stride)]
        self._inplanes = planes * Bottleneck.expansion
        layers.extend(Bottleneck(self._inplanes, planes, 1) for _ in range(blocks - 1))
        return nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalized pixels (batch, 3, size, size) to embeddings (batch, embed_dim), not yet unit length."""
        x = F.relu(self.bn1(self.conv1(pixels)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.attnpool(x)


class ResidualAttentionBlock(nn.Module):
    """A pre-norm transformer block with GELU, whose tokens may or may not see those behind them."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                [("c_fc", nn.Linear(width, width * 4)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(width * 4, width))]
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        batch, length, width = x.shape
        packed = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        q, k, v = packed.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Written out: for sequences this short it trains twice as fast as the fused operator on a processor.
        scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
        if self.causal:
            behind = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(behind, float("-inf"))
        attended = scores.softmax(dim=-1).to(v.dtype) @ v
        x = x + self.attn.out_proj(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks under OpenCLIP's parameter names."""

    def __init__(self, width: int, heads: int, layers: int, *, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads, causal=causal) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Apply every block in turn."""
        for block in self.resblocks:
            x = block(x)
        return x


class VisionTransformer(nn.Module):
    """The image tower as a ViT (Dosovitskiy et al. 2020, arXiv:2010.11929): patches, a class token, pre-norm blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, patch = config.vision_width, config.vision_patch_size
        if patch is None or not isinstance(config.vision_layers, int):
            raise TypeError("a ViT has a patch size and one number of layers.")
        tokens = (config.image_size // patch) ** 2 + 1
        self.patch, self.positions = patch, config.image_size // patch
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(tokens, width) * width**-0.5)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, width // 64, config.vision_layers, causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map normalized pixels (batch, 3, size, size) to embeddings (batch, embed_dim), not yet unit length."""
        x = self.conv1(pixels).flatten(2).transpose(1, 2)  # (batch, patches, width)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x + self._positions(pixels.shape[-1] // self.patch)))
        return self.ln_post(x[:, 0]) @ self.proj

    def _positions(self, side: int) -> Tensor:
        """Return positions (side² + 1, width), interpolated when the picture is not of the model's own size."""
        return interpolate_positions(self.positional_embedding, self.positions, side)


def interpolate_positions(positions: Tensor, own: int, side: int) -> Tensor:
    """Return positions (1 + own², width) of one token and a grid as those (1 + side², width) of another grid."""
    if side == own:
        return positions
    cells = positions[1:].T.reshape(1, -1, own, own)
    cells = F.interpolate(cells, size=(side, side), mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], cells.flatten(2)[0].T])


class Clip(nn.Module):
    """Both towers and the learned temperature."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = ModifiedResNet(config) if config.vision_patch_size is None else VisionTransformer(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.text_width)
        positions = torch.empty(config.context_length, config.text_width).normal_(std=0.01)
        self.positional_embedding = nn.Parameter(positions)
        self.transformer = Transformer(config.text_width, config.text_heads, config.text_layers, causal=True)
        self.ln_final = nn.LayerNorm(config.text_width)
        self.text_projection = nn.Parameter(
            torch.empty(config.text_width, config.embed_dim).normal_(std=config.text_width**-0.5)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Map normalized pixels (batch, 3, size, size) to unit vectors (batch, embed_dim)."""
        return F.normalize(self.visual(pixels).float(), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Map token ids (batch, length), end-of-text being the largest id, to unit vectors (batch, embed_dim)."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.ln_final(self.transformer(x))
        pooled = x[torch.arange(ids.shape[0], device=x.device), ids.argmax(dim=-1)]
        return F.normalize((pooled @ self.text_projection).float(), dim=-1)
