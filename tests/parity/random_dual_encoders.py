"""Writes small random checkpoints of families that are only traced: Chinese-CLIP and MetaCLIP 2.

As with `tests/unit/export/random_checkpoints.py`, the weights are larger than those a training starts from.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ChineseCLIPConfig, ChineseCLIPModel
from transformers.models.metaclip_2 import MetaClip2Config, MetaClip2Model

from clip_search_export.inputs import make_texts

__all__ = ["write_chinese_clip", "write_metaclip2"]

_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_XLM_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_SENTENCES = ("一只红色的自行车", "日本の猫", "小火龙和皮卡丘")


def write_chinese_clip(folder: Path, *, seed: int = 0, image_size: int = 32, context_length: int = 40) -> Path:
    """Write a Chinese-CLIP as they are published: a BERT with a WordPiece `vocab.txt`, and pictures squashed."""
    folder.mkdir(parents=True)
    words = sorted(set(" ".join(make_texts()).lower().split()))
    letters = sorted(set("abcdefghijklmnopqrstuvwxyz0123456789!'").union(*_SENTENCES))
    vocabulary = [*_BERT_TOKENS, *letters, *(f"##{letter}" for letter in letters), *words[::2]]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    text = {**_tower(), "max_position_embeddings": context_length, "vocab_size": len(dict.fromkeys(vocabulary))}
    config = ChineseCLIPConfig(text_config=text, vision_config=_vision(image_size), projection_dim=24)
    _save(ChineseCLIPModel(config), folder, seed)
    preprocessing = {
        "feature_extractor_type": "ChineseCLIPFeatureExtractor",
        "do_center_crop": False,
        "size": {"height": image_size, "width": image_size},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


def write_metaclip2(folder: Path, *, seed: int = 0, image_size: int = 32, context_length: int = 20) -> Path:
    """Write a MetaCLIP 2: CLIP's towers with a tokenizer whose end token has the id 2 and is not the padding."""
    folder.mkdir(parents=True)
    words = sorted(set(" ".join([*make_texts(), *_SENTENCES]).split()))
    vocabulary = {token: index for index, token in enumerate([*_XLM_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(list(_XLM_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": context_length}))
    text = {**_tower(), "max_position_embeddings": context_length, "vocab_size": len(vocabulary), "eos_token_id": 2}
    config = MetaClip2Config(text_config=text, vision_config=_vision(image_size), projection_dim=24)
    _save(MetaClip2Model(config), folder, seed)
    preprocessing = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": image_size}}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**preprocessing, "crop_size": {"height": image_size, "width": image_size}})
    )
    return folder


def _tower() -> dict[str, Any]:
    return {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def _vision(image_size: int) -> dict[str, Any]:
    return {**_tower(), "hidden_size": 48, "image_size": image_size, "patch_size": 8}


@torch.no_grad()
def _save(model: Any, folder: Path, seed: int) -> None:
    random = np.random.RandomState(seed)
    for name, tensor in model.named_parameters():
        values = random.standard_normal(tuple(tensor.shape))
        if "embedding" in name:
            values *= 1.0 if "word" in name or "token" in name else 0.3
        elif tensor.ndim > 1:
            values *= 1.4 / np.sqrt(tensor[0].numel())
        else:
            values = 0.2 * values + (1.0 if name.lower().endswith("norm.weight") else 0.0)
        if name != "logit_scale":
            tensor.copy_(torch.from_numpy(values))
    model.save_pretrained(folder)
