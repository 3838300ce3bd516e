"""A dual encoder as PyTorch runs it: loaded, traced, and asked for its embeddings, the reference of parity.

The one module that imports PyTorch, transformers and optimum; nothing else may be imported before it is known that they
are there. Knows nothing of bundles. No code of a checkpoint is run: classes are those of transformers alone, and
pickles are read as weights alone.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from optimum.exporters.onnx import export as trace_model
from optimum.exporters.tasks import TasksManager
from transformers import AutoModelForZeroShotImageClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from clip_search_export.errors import CheckpointError, UnsupportedError
from clip_search_export.files.json_files import read_json
from clip_search_export.files.weight_files import HUGGING_FACE_WEIGHTS, INDEX_SUFFIX, read_shard_index
from clip_search_export.graph import ONNX_OPSET
from clip_search_export.tracing.settings import FastTokenizer
from clip_search_export.weights import Array

__all__ = ["PACKAGES", "REFERENCE", "TorchModel", "load_fast_tokenizer"]

PACKAGES: Final = ("torch", "transformers", "optimum", "optimum-onnx")
"""The distributions whose versions decide what is traced."""

REFERENCE: Final = "PyTorch FP32 (transformers)"

_TASK: Final = "zero-shot-image-classification"
_AT_ONCE = 4
_SCORES_TOLERANCE = 1e-3
_REASON_CHARACTERS_MAX = 300

_Embeddings = npt.NDArray[np.float64]


class TorchModel:
    """A dual encoder of transformers' in FP32, ready to be asked and traced."""

    def __init__(self, model: Any, config: Any, model_type: str) -> None:  # noqa: ANN401 - the libraries ship no types.
        self._model = model
        self._trace_config = config
        self.model_type = model_type

    @classmethod
    def load(cls, folder: Path) -> "TorchModel":
        """Load the checkpoint in `folder`.

        Raises:
            UnsupportedError: optimum does not trace models of this type; names it and those that it does.
            CheckpointError: the weights are missing, incomplete or damaged, or transformers cannot read them.
        """
        model_type = read_json(folder / "config.json").get("model_type")
        known = TasksManager.get_supported_model_type_for_task(_TASK, "onnx")
        if not isinstance(model_type, str) or model_type not in known:
            raise UnsupportedError(
                f"the model type {model_type!r} is no dual encoder that optimum can load; it loads "
                f"{', '.join(sorted(known))}."
            )
        with _quiet():
            model = _load(folder)
            construct = TasksManager.get_exporter_config_constructor(
                "onnx", model, task=_TASK, library_name="transformers"
            )
            return cls(model, construct(model.config, task=_TASK), model_type)

    @property
    def architecture(self) -> str:
        """A readable name for the manifest."""
        return f"{type(self._model).__name__} (Hugging Face, traced)"

    @property
    def image_size(self) -> int:
        """The side of the square that the image tower reads."""
        return int(self._model.config.vision_config.image_size)

    @property
    def context_length(self) -> int:
        """The most tokens for which the text tower has positions."""
        return int(self._model.config.text_config.max_position_embeddings)

    @property
    def vocab_size(self) -> int:
        """The number of token ids that the text tower knows."""
        return int(self._model.config.text_config.vocab_size)

    @property
    def end_token_id(self) -> int | None:
        """What the configuration says of the end token, at which towers that have one pool."""
        end_token_id: int | None = self._model.config.text_config.eos_token_id
        return end_token_id

    @property
    def logit_scale(self) -> float:
        """The factor of the cosine."""
        return float(self._model.logit_scale.detach().exp())

    @property
    def logit_bias(self) -> float | None:
        """What is added behind the factor; None for a model that has no such thing."""
        bias = getattr(self._model, "logit_bias", None)
        return None if bias is None else float(bias.detach())

    def weights(self) -> Iterator[tuple[str, Array]]:
        """Yield every weight with its name, in the order of names."""
        for name, tensor in sorted(self._model.state_dict().items()):
            if tensor.is_floating_point():
                yield name, tensor.numpy()

    @torch.inference_mode()
    def embed_images(self, pixels: npt.NDArray[np.float32]) -> _Embeddings:
        """Embed normalized pictures, (inputs, 3, size, size), to unit length, (inputs, dim)."""
        ids = np.zeros((1, self.context_length), dtype=np.int64)
        batches = (pixels[start : start + _AT_ONCE] for start in range(0, len(pixels), _AT_ONCE))
        with _quiet():
            return _unit([self._run(batch, ids, np.ones_like(ids)).image_embeds for batch in batches])

    @torch.inference_mode()
    def embed_texts(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> _Embeddings:
        """Embed padded texts, (inputs, length), where `mask` is 1 on their own tokens, to (inputs, dim)."""
        blank = np.zeros((1, 3, self.image_size, self.image_size), dtype=np.float32)
        starts = range(0, len(ids), _AT_ONCE)
        with _quiet():
            return _unit(
                [self._run(blank, ids[at : at + _AT_ONCE], mask[at : at + _AT_ONCE]).text_embeds for at in starts]
            )

    @torch.inference_mode()
    def check_scores(
        self, pixels: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]
    ) -> None:
        """Make sure that a score of a picture and a text is their cosine, scaled and shifted.

        Raises:
            UnsupportedError: it is something else, which a search over embeddings would not reproduce.
        """
        with _quiet():
            output = self._run(pixels[:_AT_ONCE], ids[:_AT_ONCE], mask[:_AT_ONCE])
        cosines = _unit([output.image_embeds]) @ _unit([output.text_embeds]).T
        expected = self.logit_scale * cosines + (self.logit_bias or 0.0)
        error = np.abs(output.logits_per_image.numpy() - expected).max()
        # Written so that NaN does not pass.
        if not error <= _SCORES_TOLERANCE * max(1.0, self.logit_scale):
            raise UnsupportedError("the model does not score a picture and a text by the cosine of their embeddings.")

    def trace(self, path: Path, context_length: int) -> None:
        """Write the graph of the whole model to `path`.

        Raises:
            UnsupportedError: it cannot be traced; says why.
        """
        shapes = {"batch_size": 2, "sequence_length": context_length}
        with _quiet():
            try:
                trace_model(self._model, self._trace_config, path, opset=ONNX_OPSET, input_shapes=shapes)
            except Exception as error:
                raise UnsupportedError(f"optimum cannot trace the model: {_first_words(error)}") from error

    def _run(self, pixels: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Any:  # noqa: ANN401 - transformers' outputs.
        inputs = {
            "pixel_values": pixels,
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
        }
        asked = {name: torch.from_numpy(inputs[name]) for name in self._trace_config.inputs if name in inputs}
        return self._model(**asked)


def load_fast_tokenizer(folder: Path) -> FastTokenizer:
    """Load the tokenizer of a checkpoint, converting WordPiece and SentencePiece vocabularies where needed.

    Raises:
        CheckpointError: there is none, or none that has a form without Python code.
    """
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, use_fast=True, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise CheckpointError(
                f"transformers cannot read the tokenizer in {folder}: {_first_words(error)}"
            ) from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder} has a {type(tokenizer).__name__}, which has no form as tokenizer.json: add one."
        )
    return FastTokenizer(
        json=tokenizer.backend_tokenizer.to_str(),
        empty_ids=tokenizer("")["input_ids"],
        pad_token_id=tokenizer.pad_token_id,
        context_length=int(tokenizer.model_max_length),
    )


def _load(folder: Path) -> Any:  # noqa: ANN401 - the library ships no types.
    for index in (folder / f"{name}{INDEX_SUFFIX}" for name in HUGGING_FACE_WEIGHTS):
        if index.is_file():
            # transformers would open whatever file an index names.
            read_shard_index(index)
    try:
        model, told = AutoModelForZeroShotImageClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # Whatever a damaged file makes of the libraries below.
        raise CheckpointError(f"transformers cannot read {folder}: {_first_words(error)}") from error
    # What is missing or does not fit, transformers has filled with random numbers.
    for name in told["mismatched_keys"]:
        expected = list(model.state_dict()[name].shape)
        raise CheckpointError(f"the tensor {name} has not the shape {expected} that its configuration asks for.")
    missing = sorted(told["missing_keys"])
    if missing:
        raise CheckpointError(
            f"the checkpoint has no tensor {missing[0]}: it is incomplete, or of another architecture."
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"the tensor {name} has values that are not finite: the checkpoint is damaged.")
    return model.eval()


def _unit(batches: Sequence[Any]) -> _Embeddings:
    embeddings = torch.cat(list(batches)).double()
    unit: _Embeddings = torch.nn.functional.normalize(embeddings, dim=-1).numpy()
    return unit


def _first_words(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS_MAX else f"{text[:_REASON_CHARACTERS_MAX]} …"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' warnings, logs and progress bars from people, who get one sentence where it matters."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
