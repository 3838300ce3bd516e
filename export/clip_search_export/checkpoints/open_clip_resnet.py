"""Reads the weights of CLIP's modified ResNet in OpenCLIP layout, whose names are those of openai/CLIP."""

from clip_search_export.checkpoints.layers import read_linear
from clip_search_export.checkpoints.settings import Settings
from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.files.tensors import TensorReader
from clip_search_export.weights import AttentionPool, BatchNorm, Bottleneck, Convolution, ModifiedResNet

__all__ = ["read_modified_resnet"]

_STAGES = 4
_BLOCKS_MAX = 1000
_EXPANSION = 4
_NORM_EPSILON = 1e-5  # PyTorch's default of BatchNorm2d, which open_clip leaves alone.
_DOWNSCALING = 32


def read_modified_resnet(tensors: TensorReader, config: Settings, embedding_dim: int) -> ModifiedResNet:
    """Read the tower that `vision_cfg` describes.

    Raises:
        UnsupportedError: the size of pictures is no multiple of the tower's downscaling.
        CheckpointError: counts, heads or tensors are not as they must be.
    """
    layers, width, size = config.get("layers"), config.size("width"), config.square("image_size")
    if len(layers) != _STAGES or not all(isinstance(count, int) and 1 <= count <= _BLOCKS_MAX for count in layers):
        raise CheckpointError(f"{config.where}: layers is {layers!r}; four counts were expected.")
    if size % _DOWNSCALING:
        raise UnsupportedError(f"{config.where}: image_size {size} is no multiple of {_DOWNSCALING}.")
    stem = (
        _read_convolution(tensors, "visual.conv1", "visual.bn1", (width // 2, 3, 3, 3)),
        _read_convolution(tensors, "visual.conv2", "visual.bn2", (width // 2, width // 2, 3, 3)),
        _read_convolution(tensors, "visual.conv3", "visual.bn3", (width, width // 2, 3, 3)),
    )
    stages = []
    channels = width
    for index, count in enumerate(layers):
        planes = width * 2**index
        blocks = []
        for block in range(count):
            stride = 2 if index > 0 and block == 0 else 1
            blocks.append(_read_bottleneck(tensors, f"visual.layer{index + 1}.{block}", channels, planes, stride))
            channels = planes * _EXPANSION
        stages.append(tuple(blocks))
    # open_clip counts the heads of the pool so (model.py, _build_vision_tower).
    heads = width * 32 // config.size("head_width")
    if heads < 1 or channels % heads:
        raise CheckpointError(f"{config.where}: {heads} heads do not divide {channels} channels.")
    places = (size // _DOWNSCALING) ** 2
    pool = _read_attention_pool(tensors, channels, places, embedding_dim, heads)
    return ModifiedResNet(stem=stem, stages=tuple(stages), pool=pool, image_size=size)


def _read_bottleneck(tensors: TensorReader, prefix: str, channels: int, planes: int, stride: int) -> Bottleneck:
    downsample = None
    outputs = planes * _EXPANSION
    if stride > 1 or channels != outputs:
        names = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
        downsample = _read_convolution(tensors, *names, (outputs, channels, 1, 1))
    return Bottleneck(
        reduce=_read_convolution(tensors, f"{prefix}.conv1", f"{prefix}.bn1", (planes, channels, 1, 1)),
        spatial=_read_convolution(tensors, f"{prefix}.conv2", f"{prefix}.bn2", (planes, planes, 3, 3)),
        expand=_read_convolution(tensors, f"{prefix}.conv3", f"{prefix}.bn3", (outputs, planes, 1, 1)),
        downsample=downsample,
        stride=stride,
    )


def _read_convolution(tensors: TensorReader, name: str, norm: str, shape: tuple[int, ...]) -> Convolution:
    channels = (shape[0],)
    variance = tensors.take(f"{norm}.running_var", channels)
    if (variance < 0).any():
        raise CheckpointError(f"the tensor {norm}.running_var has negative values: the checkpoint is damaged.")
    return Convolution(
        weight=tensors.take(f"{name}.weight", shape),
        norm=BatchNorm(
            gain=tensors.take(f"{norm}.weight", channels),
            bias=tensors.take(f"{norm}.bias", channels),
            mean=tensors.take(f"{norm}.running_mean", channels),
            variance=variance,
            epsilon=_NORM_EPSILON,
        ),
    )


def _read_attention_pool(
    tensors: TensorReader, width: int, places: int, embedding_dim: int, heads: int
) -> AttentionPool:
    prefix = "visual.attnpool"
    return AttentionPool(
        positions=tensors.take(f"{prefix}.positional_embedding", (places + 1, width)),
        query=read_linear(tensors, f"{prefix}.q_proj", width, width),
        key=read_linear(tensors, f"{prefix}.k_proj", width, width),
        value=read_linear(tensors, f"{prefix}.v_proj", width, width),
        output=read_linear(tensors, f"{prefix}.c_proj", width, embedding_dim),
        heads=heads,
    )
