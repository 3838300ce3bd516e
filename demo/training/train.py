"""Trains the demo model: `python -m demo.training.train --work DIR --minutes 100`.

Two phases. First the text tower alone learns which *concepts* a text fits: cross-entropy against one learned prototype
vector a concept. Then both towers train together on (a) CLIP's contrastive loss over the batch, where a picture is
right for a text when its concept fits the text, and (b) the same prototypes, for pictures and for texts, which stand in
for the huge batches that two processor cores cannot hold. A text is either a caption, made of what a concept is called,
or a phrase beyond the captions, which a sentence encoder has compared with the concepts (`phrases.py`).

The schedule follows the clock, not a step count: progress = training seconds spent / seconds allowed, and decides
learning rate and picture size. A checkpoint every few minutes makes a killed run resume where it was. Knows nothing of
how the result is served; `publish.py` writes the checkpoint that the exporter reads.
"""

import argparse
import csv
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's own abbreviation

from demo.training import sources
from demo.training.augment import augment
from demo.training.captions import CaptionSampler, build_concepts, comparable
from demo.training.model import RESNET, VIT, Clip, ModelConfig
from demo.training.phrases import load_phrases
from demo.training.pictures import VALIDATION_STYLE, load_pictures
from demo.training.tokenizer import train_tokenizer

TOWERS = {"resnet": RESNET, "vit": VIT}
QUERIES = Path(__file__).parent.parent / "queries.tsv"
#: CLIP's own channel statistics (paper's released preprocessing); any fixed affine map would do.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Every knob of the training; the defaults train both towers from nothing."""

    seed: int = 20261123
    text_share: float = 0.12  # of the time, spent on the text tower alone
    text_batch: int = 320
    text_phrases: int = 192
    text_learning_rate: float = 2e-3
    picture_batch: int = 96
    extra_captions: int = 48
    phrases: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    prototype_weight: float = 1.0
    small_size: int = 64  # pixels; for a ViT a multiple of its patch
    small_share: float = 0.5  # of the joint phase, at small_size; then the model's own size
    warm_up_share: float = 0.02
    average_decay: float = 0.998
    hold_out_validation: bool = True
    prototypes_known: bool = False  # from a first round: the text phase leaves them where the pictures are
    own_share: float = 0.6  # of a caption's target, on the concept it was made for; the rest on all that it fits
    text_locked: bool = False  # the text tower stays as it is (Zhai et al. 2021, arXiv:2111.07991)


#: A step takes a second; what goes beyond this was a pause of the whole program, and no training.
_STEP_SECONDS_MAX = 10.0

#: How readily a picture of a style is drawn, when not 1: few outlined drawings exist, much clip art is hard to name.
STYLE_WEIGHTS = {
    "openclipart": 0.4,
    "streamline-emojis": 3.0,
    "icon-park": 2.0,
    "fluent-emoji-high-contrast": 0.5,
    "emojione-monotone": 0.5,
    "noto-emoji": 0.7,
}


def held_out_phrases() -> set[str]:
    """Return the phrases of queries.tsv in comparable form."""
    lines = [line for line in QUERIES.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {comparable(row["phrase"]) for row in csv.DictReader(lines, delimiter="\t")}


#: A finished run's image tower goes on, at full size and with the validation style too; its text tower is made anew.
NEW_TEXT_TOWER = Recipe(
    seed=20261124,
    text_share=0.2,
    learning_rate=1e-3,
    small_share=0.0,
    hold_out_validation=False,
    prototypes_known=True,
)
#: A finished run's text tower stays as it is; an image tower, of whichever kind, learns from nothing to point where
#: it points, mostly on small pictures, since a ViT's cost falls with the patches (Li et al. 2022, arXiv:2212.00794).
NEW_IMAGE_TOWER = Recipe(
    seed=20261125,
    text_share=0.0,
    text_locked=True,
    extra_captions=0,
    phrases=0,
    learning_rate=1e-3,
    small_size=60,
    small_share=0.8,
    hold_out_validation=False,
)
IMAGE_TOWER = "visual."  # how the names of its weights begin


class Data:
    """Pictures, concepts and captions, ready to be drawn from."""

    def __init__(self, folder: Path, config: ModelConfig, recipe: Recipe) -> None:
        pixels, keys, styles = load_pictures(folder, config.image_size)
        phrases = held_out_phrases()
        concepts = build_concepts(folder, keys, phrases)
        self.keys = list(concepts)
        numbers = {key: number for number, key in enumerate(self.keys)}
        self.phrases = load_phrases(folder, list(concepts.values()), phrases)
        self.sampler = CaptionSampler(concepts, phrases)
        self.pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # uint8 (count, 4, size, size)
        self.concept_of = torch.tensor([numbers[key] for key in keys])
        validation = np.array([style == VALIDATION_STYLE for style in styles])
        held_out = validation & recipe.hold_out_validation
        weights = np.where(held_out, 0.0, [STYLE_WEIGHTS.get(style, 1.0) for style in styles])
        self.weights = weights / weights.sum()
        self.concept_weights = np.bincount(self.concept_of.numpy(), weights=self.weights) ** 0.5
        self.concept_weights /= self.concept_weights.sum()
        self.validation = np.flatnonzero(validation)
        self.tokenizer = self._tokenizer(folder, config)
        self.context_length = config.context_length

    def _tokenizer(self, folder: Path, config: ModelConfig) -> Tokenizer:
        path = folder / "tokenizer.json"
        if not path.exists():
            terms = sorted(self.sampler.all_terms())
            train_tokenizer([*terms, *terms, *self.phrases.texts], config.vocab_size).save(str(path))
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.enable_truncation(config.context_length)
        tokenizer.enable_padding(pad_id=0)
        return tokenizer

    def tokenize(self, texts: list[str]) -> Tensor:
        """Return ids int64 (texts, length), zero-padded behind the end token."""
        return torch.tensor([encoding.ids for encoding in self.tokenizer.encode_batch(texts)])

    def texts(
        self, numbers: list[int], phrase_numbers: np.ndarray, own_share: float, rng: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Return ids (texts, length) of one caption a concept and of the phrases, and targets (texts, concepts).

        A row of the targets adds up to 1: `own_share` on the concept the caption was made for, because what is called
        "pizza" should be found before what merely has some; the rest evenly on every concept that it fits. A phrase's
        row is what the teacher says.
        """
        drawn = [self.sampler.sample(number, rng) for number in numbers]
        targets = torch.zeros(len(drawn) + len(phrase_numbers), len(self.sampler.concepts))
        for row, (_, carriers) in enumerate(drawn):
            targets[row, list(carriers)] = (1 - own_share) / len(carriers)
            targets[row, numbers[row]] += own_share
        nearest = torch.from_numpy(self.phrases.concepts[phrase_numbers])
        targets[len(drawn) :].scatter_(1, nearest, torch.from_numpy(self.phrases.shares[phrase_numbers]))
        phrases = [self.phrases.texts[number] for number in phrase_numbers]
        return self.tokenize([text for text, _ in drawn] + phrases), targets


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy against each row's targets, scaled to add up to 1; empty rows are left out.

    Args:
        logits: (rows, candidates).
        targets: non-negative (rows, candidates).
    """
    totals = targets.sum(-1)
    per_row = -(F.log_softmax(logits, dim=-1) * targets).sum(-1) / totals.clamp(min=1e-12)
    return per_row[totals > 0].mean()


class Trainer:
    """Model, prototypes, optimizer, running average and clock, saved and restored together."""

    def __init__(self, data: Data, config: ModelConfig, recipe: Recipe, seconds_allowed: float) -> None:
        torch.manual_seed(recipe.seed)
        self.data, self.recipe = data, recipe
        self.model = Clip(config)
        self.prototypes = nn.Parameter(torch.randn(len(data.sampler.concepts), config.embed_dim) * 0.05)
        self.prototype_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.optimizer = self._optimizer()
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.random = random.Random(recipe.seed)
        self.numpy = np.random.default_rng(recipe.seed)
        self.seconds_allowed, self.seconds_spent = seconds_allowed, 0.0
        self.steps, self.pictures_seen = 0, 0
        self.mean = torch.tensor(MEAN).view(1, 3, 1, 1)
        self.std = torch.tensor(STD).view(1, 3, 1, 1)
        self.model.to(memory_format=torch.channels_last)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not recipe.text_locked or name.startswith((IMAGE_TOWER, "logit_scale")))

    def _optimizer(self) -> torch.optim.Optimizer:
        named = list(self.model.named_parameters())
        decayed = [p for _, p in named if p.ndim > 1]
        plain = [p for _, p in named if p.ndim <= 1] + [self.prototype_scale]
        groups = [
            {"params": decayed, "weight_decay": self.recipe.weight_decay},
            {"params": [*plain, self.prototypes], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)

    @property
    def progress(self) -> float:
        """Return the share of the allowed time that is spent, 0..1."""
        return min(1.0, self.seconds_spent / self.seconds_allowed)

    def run(self, checkpoint: Path, report_seconds: float = 60.0) -> None:
        """Train until the time is spent, saving to `checkpoint` every five minutes."""
        reported = saved = validated = self.seconds_spent
        losses: list[float] = []
        while self.progress < 1:
            started = time.monotonic()
            text_only = self.progress < self.recipe.text_share
            self.prototypes.requires_grad_(not (text_only and self.recipe.prototypes_known))
            loss = self._text_step() if text_only else self._joint_step()
            losses.append(self._update(loss))
            self.seconds_spent += min(time.monotonic() - started, _STEP_SECONDS_MAX)
            if self.seconds_spent - reported >= report_seconds:
                reported = self.seconds_spent
                print(
                    f"{reported / 60:6.1f} min  step {self.steps}  pictures {self.pictures_seen}  "
                    f"loss {np.mean(losses):.3f}  scale {self.model.logit_scale.exp().item():.1f}",
                    flush=True,
                )
                losses.clear()
            if self.seconds_spent - saved >= 300:  # noqa: PLR2004 - seconds
                saved = self.seconds_spent
                self.save(checkpoint)
            if self.seconds_spent - validated >= 600 and self.pictures_seen:  # noqa: PLR2004 - seconds
                validated = self.seconds_spent
                print(f"           validation {self.validate()}", flush=True)
        self.save(checkpoint)

    def _rate(self) -> float:
        recipe = self.recipe
        if self.progress < recipe.text_share:
            inside = self.progress / recipe.text_share
            return recipe.text_learning_rate * min(1.0, inside / 0.05) * (1 - 0.7 * inside)
        inside = (self.progress - recipe.text_share) / (1 - recipe.text_share)
        cosine = 0.5 * (1 + math.cos(math.pi * inside))
        return recipe.learning_rate * min(1.0, inside / recipe.warm_up_share) * (0.01 + 0.99 * cosine)

    def _update(self, loss: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
            decay = min(self.recipe.average_decay, (1 + self.steps) / (10 + self.steps))
            for name, value in self.model.state_dict().items():
                if value.dtype.is_floating_point:
                    self.average[name].lerp_(value, 1 - decay)
        self.steps += 1
        return loss.item()

    def _prototype_logits(self, embeddings: Tensor) -> Tensor:
        return self.prototype_scale.exp() * (embeddings @ F.normalize(self.prototypes, dim=-1).T)

    def _draw_texts(self, numbers: list[int], captions: int, phrases: int) -> tuple[Tensor, Tensor]:
        """Return ids and targets of a caption for each of `numbers`, of `captions` more and of `phrases` phrases."""
        data = self.data
        more = self.numpy.choice(len(data.concept_weights), captions, p=data.concept_weights)
        chosen = self.numpy.choice(len(data.phrases.weights), phrases, p=data.phrases.weights)
        return data.texts(numbers + more.tolist(), chosen, self.recipe.own_share, self.random)

    def _encode_text(self, ids: Tensor) -> Tensor:
        """Return embeddings (texts, dim), in groups of similar length because padding costs as much as words."""
        lengths = ids.argmax(dim=1) + 1  # the end token has the largest id
        order = lengths.argsort()
        groups = [self.model.encode_text(ids[group, : int(lengths[group].max())]) for group in order.chunk(4)]
        return torch.cat(groups)[order.argsort()]

    def _text_step(self) -> Tensor:
        ids, targets = self._draw_texts([], self.recipe.text_batch, self.recipe.text_phrases)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = self._encode_text(ids)
        return cross_entropy(self._prototype_logits(embeddings), targets)

    def _joint_step(self) -> Tensor:
        recipe, data = self.recipe, self.data
        inside = (self.progress - recipe.text_share) / (1 - recipe.text_share)
        size = recipe.small_size if inside < recipe.small_share else self.model.config.image_size
        chosen = self.numpy.choice(len(data.weights), recipe.picture_batch, p=data.weights)
        pictures = augment(data.pixels[chosen], size, self.generator)
        pictures = ((pictures - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        numbers = data.concept_of[chosen]
        ids, targets = self._draw_texts(numbers.tolist(), recipe.extra_captions, recipe.phrases)
        with torch.autocast("cpu", torch.bfloat16):
            image = self.model.encode_image(pictures)
            text = self._encode_text(ids)
        self.pictures_seen += len(chosen)
        logits = self.model.logit_scale.exp() * (image @ text.T)  # (pictures, texts)
        right = targets[:, numbers].T  # (pictures, texts)
        contrastive = (cross_entropy(logits, right) + cross_entropy(logits.T, right.T)) / 2
        prototype = F.cross_entropy(self._prototype_logits(image), numbers)
        prototype = prototype + cross_entropy(self._prototype_logits(text), targets)
        return contrastive + recipe.prototype_weight * prototype / 2

    def averaged_model(self) -> Clip:
        """Return a copy of the model that holds the running average of the weights, in evaluation mode."""
        model = Clip(self.model.config)
        model.load_state_dict(self.average)
        return model.eval()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return recall@1/5/10 of names against the pictures of the validation style, which training never sees."""
        model, data = self.averaged_model(), self.data
        size = model.config.image_size
        vectors = []
        for start in range(0, len(data.validation), 64):
            rgba = data.pixels[data.validation[start : start + 64]].float() / 255
            flat = rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
            framed = F.pad(flat, (6, 6, 6, 6), value=1.0)
            framed = F.interpolate(framed, size=(size, size), mode="bilinear", antialias=True)
            vectors.append(model.encode_image((framed - self.mean) / self.std))
        image = torch.cat(vectors)
        numbers = data.concept_of[data.validation]
        text = model.encode_text(data.tokenize([data.sampler.concepts[int(n)].name for n in numbers]))
        order = (text @ image.T).argsort(descending=True)
        hit = numbers[order] == numbers[:, None]
        return {f"R@{k}": round(hit[:, :k].any(1).float().mean().item(), 3) for k in (1, 5, 10)}

    def save(self, path: Path) -> None:
        """Write everything that resuming needs, atomically."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average,
            "prototypes": (self.prototypes.data, self.prototype_scale.data),
            "keys": self.data.keys,
            "optimizer": self.optimizer.state_dict(),
            "clock": (self.seconds_spent, self.steps, self.pictures_seen),
            "random": (self.random.getstate(), self.generator.get_state(), self.numpy.bit_generator.state),
            "config": asdict(self.model.config),
            "recipe": asdict(self.recipe),
            "minutes_allowed": self.seconds_allowed / 60,
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def keep(self, path: Path, *, image_tower: bool) -> None:
        """Take one tower and the prototypes of a finished run; the other tower, clock and optimizer start anew.

        The prototypes carry the shared space over: the new tower learns to point where the old one already does.
        """
        state = torch.load(path, weights_only=False)
        kept = {n: value for n, value in state["average"].items() if n.startswith(IMAGE_TOWER) is image_tower}
        self.model.load_state_dict(kept, strict=False)
        self.average |= {name: value.clone() for name, value in kept.items()}
        prototypes, self.prototype_scale.data = state["prototypes"]
        rows = {key: row for row, key in enumerate(state["keys"])}
        for number, key in enumerate(self.data.keys):
            if key in rows:
                self.prototypes.data[number] = prototypes[rows[key]]

    def restore(self, path: Path) -> None:
        """Continue from a file written by `save`."""
        state = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.prototypes.data, self.prototype_scale.data = state["prototypes"]
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["fused"] = True  # not part of what was learned
        self.seconds_spent, self.steps, self.pictures_seen = state["clock"]
        python, torch_state, numpy_state = state["random"]
        self.random.setstate(python)
        self.generator.set_state(torch_state)
        self.numpy.bit_generator.state = numpy_state


def main() -> None:
    """Fetch, train and leave `checkpoint.pt` and `tokenizer.json` in the work folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads, caches and checkpoints")
    parser.add_argument("--minutes", type=float, default=100.0, help="training time on two cores")
    parser.add_argument("--tower", choices=TOWERS, default="resnet", help="kind of the image tower")
    keep = parser.add_mutually_exclusive_group()
    keep.add_argument("--keep-image-tower", type=Path, metavar="CHECKPOINT", help="train a new text tower beside it")
    keep.add_argument("--keep-text-tower", type=Path, metavar="CHECKPOINT", help="train a new image tower beside it")
    parser.add_argument("--no-fetch", action="store_true", help="use the packages already in the work folder")
    arguments = parser.parse_args()
    if not arguments.no_fetch:
        sources.fetch(arguments.work)
    config = TOWERS[arguments.tower]
    kept = arguments.keep_image_tower or arguments.keep_text_tower
    recipe = NEW_TEXT_TOWER if arguments.keep_image_tower else NEW_IMAGE_TOWER if kept else Recipe()
    data = Data(arguments.work, config, recipe)
    trainer = Trainer(data, config, recipe, arguments.minutes * 60)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {len(data.pixels)} pictures, {len(data.sampler.concepts)} concepts")
    checkpoint = arguments.work / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
        print(f"resumed at {trainer.seconds_spent / 60:.1f} minutes")
    elif kept:
        trainer.keep(kept, image_tower=bool(arguments.keep_image_tower))
    trainer.run(checkpoint)
    scores = trainer.validate()
    print(json.dumps({"validation_style": VALIDATION_STYLE, **scores, "pictures_seen": trainer.pictures_seen}))


if __name__ == "__main__":
    main()
