"""Says which options of OpenCLIP's configuration are authored, which change nothing, and refuses the rest by name.

The options are those of open_clip's CLIPVisionCfg, CLIPTextCfg and PreprocessCfg (model.py, transform.py). An option
that no list here has is refused too: what it would change is not known.
"""

from collections.abc import Collection, Mapping
from typing import Any

from clip_search_export.checkpoints.settings import Settings
from clip_search_export.errors import UnsupportedError

__all__ = ["check_options"]

_MODEL_READ = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias"}
_MODEL_INERT = {"custom_text", "init_logit_scale", "nonscalar_logit_scale"}

_READ = {"layers", "width", "mlp_ratio", "norm_kwargs"}
_VISION_READ = _READ | {"head_width", "patch_size", "image_size"}
_TEXT_READ = _READ | {"context_length", "vocab_size", "heads", "pool_type", "eos_id"}
_TEXT_READ |= {"hf_tokenizer_name", "tokenizer_kwargs"}

_VISION_INERT = {
    "patch_dropout",  # of training
    "output_tokens",  # a second output
    "pos_embed_type",  # sines and cosines are stored like learned positions
    "final_ln_after_pool",  # the same when one token is pooled
    "attn_pooler_queries",
    "attn_pooler_heads",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
}
"""Options of the vision tower that change nothing without those that `_VISION_OFF` refuses."""
_TEXT_INERT = {"pad_id", "output_tokens", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"}
"""Options of the text tower that change nothing without those that `_TEXT_OFF` refuses."""

_BLOCK_OFF: Mapping[str, tuple[object, ...]] = {
    "ls_init_value": (None,),
    "act_kwargs": (None, {}),
    "block_type": (None, "default"),
    "qk_norm": (None, False),
    "scaled_cosine_attn": (None, False),
    "scale_heads": (None, False),
    "scale_attn_inner": (None, False),
    "scale_attn": (None, False),
    "scale_fc": (None, False),
}
_VISION_OFF: Mapping[str, tuple[object, ...]] = {
    **_BLOCK_OFF,
    "timm_model_name": (None, ""),
    "attentional_pool": (None, False),
    "no_ln_pre": (None, False),
    "pool_type": ("tok",),
}
_TEXT_OFF: Mapping[str, tuple[object, ...]] = {
    **_BLOCK_OFF,
    "hf_model_name": (None, ""),
    "embed_cls": (None, False),
    "no_causal_mask": (None, False),
    "final_ln_after_pool": (None, False),
    "proj_bias": (None, False),
    "proj_type": ("linear",),
    "tokenizer_mode": (None, ""),
}
"""Options that change what a tower computes, with the values that leave it as authored."""


def check_options(model: Settings, vision: Settings, text: Settings) -> None:
    """Accept a model whose every option is authored or changes nothing.

    Raises:
        UnsupportedError: names the option and its value.
    """
    if model.get("multimodal_cfg") is not None:
        raise UnsupportedError(f"{model.where}: multimodal_cfg asks for CoCa, which is not supported.")
    _check(model, _MODEL_READ | _MODEL_INERT, {})
    _check(vision, _VISION_READ | _VISION_INERT, _VISION_OFF)
    _check(text, _TEXT_READ | _TEXT_INERT, _TEXT_OFF)


def _check(settings: Settings, accepted: Collection[str], off: Mapping[str, tuple[object, ...]]) -> None:
    for key in settings:
        value: Any = settings.get(key)
        if key in off:
            if not any(type(value) is type(allowed) and value == allowed for allowed in off[key]):
                raise UnsupportedError(f"{settings.where}: {key} = {value!r} is not supported.")
        elif key not in accepted and value is not None:
            raise UnsupportedError(f"{settings.where}: the option {key} = {value!r} is not known.")
