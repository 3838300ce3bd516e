"""The demo model in PyTorch: a CLIP with a ModifiedResNet image tower and a causal text transformer.

Follows section 2.4 of the CLIP paper (Radford et al. 2021, arXiv:2103.00020): a ResNet-D with three stem convolutions,
anti-aliased strides and attention pooling; a GPT-2 style text encoder read at its end-of-text token. Parameter names
are those of OpenCLIP checkpoints, so that the exporter's OpenCLIP reader is what reads these weights. Knows nothing of
losses and data.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own abbreviation


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of both towers; the defaults are the committed demo model."""

    embed_dim: int = 192
    image_size: int = 96
    vision_layers: tuple[int, int, int, int] = (2, 2, 2, 2)
    vision_width: int = 20
    context_length: int = 32
    vocab_size: int = 6144
    text_width: int = 192
    text_heads: int = 3
    text_layers: int = 4


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

    def positions(self, grid: int) -> Tensor:
        """Return positional embeddings (grid² + 1, width), interpolated when `grid` is not the model's own."""
        own = self.positional_embedding
        if grid == self.grid:
            return own
        cells = own[1:].T.reshape(1, -1, self.grid, self.grid)
        cells = F.interpolate(cells, size=(grid, grid), mode="bilinear", align_corners=False)
        return torch.cat([own[:1], cells.flatten(2)[0].T])

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, width, grid, grid) to (batch, output_dim)."""
        grid = x.shape[-1]
        cells = x.flatten(2).transpose(1, 2)  # (batch, cells, width)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], dim=1) + self.positions(grid).to(x.dtype)
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
        self.layer1 = self._stage(width, config.vision_layers[0], 1)
        self.layer2 = self._stage(width * 2, config.vision_layers[1], 2)
        self.layer3 = self._stage(width * 4, config.vision_layers[2], 2)
        self.layer4 = self._stage(width * 8, config.vision_layers[3], 2)
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
    """A pre-norm transformer block with causal attention and GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
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
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
        attended = scores.masked_fill(future, float("-inf")).softmax(dim=-1).to(v.dtype) @ v
        x = x + self.attn.out_proj(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks under OpenCLIP's parameter names."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Apply every block in turn."""
        for block in self.resblocks:
            x = block(x)
        return x


class Clip(nn.Module):
    """Both towers and the learned temperature."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = ModifiedResNet(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.text_width)
        positions = torch.empty(config.context_length, config.text_width).normal_(std=0.01)
        self.positional_embedding = nn.Parameter(positions)
        self.transformer = Transformer(config.text_width, config.text_heads, config.text_layers)
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
        pooled = x[torch.arange(len(ids)), ids.argmax(dim=-1)]
        return F.normalize((pooled @ self.text_projection).float(), dim=-1)
