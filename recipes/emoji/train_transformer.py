"""Train the text encoder and the transformer together by flow matching, on the latents of composed pictures.

Straight paths from data to noise with velocity prediction and logit-normal times (Esser et al., "Scaling Rectified Flow
Transformers", 2024). The word table is frozen; words that captions use learn a difference to it.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.word_text_encoder import WordTextEncoder
from calotype.training.muon import MuonAdamW
from recipes.emoji.captions import CAPTION_WORDS
from recipes.emoji.checkpoint import Clock, load_checkpoint, save_checkpoint
from recipes.emoji.optimizer import update_average
from recipes.emoji.pool import MAX_LENGTH, Pools, tokenizer_of
from recipes.emoji.render import load_pictures
from recipes.emoji.settings import Preset
from recipes.emoji.words import load_words

CONDITION_DROPOUT = 0.1
MUON_RATE = 0.02
ADAM_RATE = 1.2e-3
PAD = 1
CURRICULUM = (0.25, 0.5)
"""Which part of the concepts the first pools hold; every later pool holds all."""


class TextToVelocity(nn.Module):
    """Everything that is trained: word differences, text encoder and transformer."""

    rows: Tensor

    def __init__(self, text_encoder: WordTextEncoder, transformer: MiniTransformer2DModel, used: list[int]) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.transformer = transformer
        text_encoder.word_embedding.requires_grad_(False)
        self.differences = nn.Parameter(torch.zeros(len(used) + 1, text_encoder.config.word_dim))
        rows = torch.zeros(text_encoder.config.vocab_size, dtype=torch.int64)
        rows[torch.tensor(used)] = torch.arange(1, len(used) + 1)
        self.register_buffer("rows", rows)

    def forward(self, latents: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        vectors = self.text_encoder.word_embedding(ids) + self.differences[self.rows[ids]]
        text = self.text_encoder.encode_vectors(vectors, ids != PAD)
        velocity: Tensor = self.transformer(latents, timestep, *text)
        return velocity

    def merged_text_encoder(self) -> WordTextEncoder:
        """The text encoder with the learned differences inside its table."""
        merged = copy.deepcopy(self.text_encoder).cpu()
        differences = self.differences.detach().cpu()[self.rows.cpu()]
        differences[self.rows.cpu() == 0] = 0
        with torch.no_grad():
            merged.word_embedding.weight += differences
        return merged


def build(preset: Preset) -> TextToVelocity:
    _, table = load_words(preset)
    concepts, _ = load_pictures(preset.folder)
    used = {*CAPTION_WORDS, *(word for concept in concepts for word in concept.name.split())}
    tokenizer = tokenizer_of(preset)
    text_encoder = WordTextEncoder(
        vocab_size=len(tokenizer), word_dim=table.shape[1], hidden_size=192, num_layers=2, num_heads=6,
        max_length=MAX_LENGTH,
    )  # fmt: skip
    with torch.no_grad():
        text_encoder.word_embedding.weight[:2] = 0
        text_encoder.word_embedding.weight[2:] = table
    transformer = MiniTransformer2DModel(
        sample_size=preset.size // 8, hidden_size=preset.width, num_layers=preset.depth, num_heads=preset.heads,
        text_dim=192,
    )  # fmt: skip
    ids = [0] + [index for word, index in tokenizer.id_of.items() if word in used]
    return TextToVelocity(text_encoder, transformer, ids)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and ".blocks." in name and "modulation" not in name


def optimizers_of(model: TextToVelocity) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for the rest."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [parameter for name, parameter in trained if is_matrix(name, parameter)]
    others = [parameter for name, parameter in trained if not is_matrix(name, parameter)]
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.99), weight_decay=0.0, foreach=True)
    return [MuonAdamW(matrices, lr=MUON_RATE, weight_decay=0.01), adam]


def rate_factor(clock: Clock) -> float:
    """A short warm-up, then constant, then down to 0 over the last half."""
    return min(1.0, (clock.step + 1) / 200) * min(1.0, 2 * (1 - clock.progress))


def concepts_in_pool(index: int, count: int) -> int:
    """How many of `count` concepts pool `index` holds: few at first, so that early steps repeat them often."""
    return math.ceil(CURRICULUM[index] * count) if index < len(CURRICULUM) else count


def training_loss(model: Callable[..., Any], latents: Tensor, ids: Tensor, autocast: torch.autocast) -> Tensor:
    batch = latents.shape[0]
    dropped = torch.rand(batch, device=ids.device) < CONDITION_DROPOUT
    ids = torch.where(dropped[:, None] & (torch.arange(ids.shape[1], device=ids.device) > 0), PAD, ids)
    timestep = torch.randn(batch, device=latents.device).sigmoid()
    noise = torch.randn_like(latents)
    t = timestep.view(-1, 1, 1, 1)
    with autocast:
        velocity = model(latents + t * (noise - latents), timestep, ids)
    return F.mse_loss(velocity.float(), noise - latents)


def shuffled(preset: Preset, pool: int, step: int) -> Tensor:
    """Which pictures of a pool step `step` trains on; every pass has an order of its own."""
    turn, place = divmod(step, preset.steps_per_pass)
    order = torch.randperm(preset.pool, generator=torch.Generator().manual_seed(pool * 100 + turn))
    return order[place * preset.batch : (place + 1) * preset.batch]


def main(preset: Preset, device: str, minutes: float | None = None, compiled: bool = True) -> None:
    limit_minutes = minutes or preset.transformer_minutes
    finished = preset.folder / "transformer.json"
    if finished.exists() and json.loads(finished.read_text())["minutes"] > 0.98 * limit_minutes:
        return  # a longer limit goes on from the last checkpoint
    torch.manual_seed(0)
    count = len(load_pictures(preset.folder)[0])
    model = build(preset).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = optimizers_of(model)
    clock = Clock(preset.transformer_steps, limit_minutes)
    path = preset.folder / "transformer-checkpoint.pt"
    load_checkpoint(path, {"model": model, "average": average}, optimizers, clock, device)
    run = torch.compile(model, dynamic=False) if compiled else model
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16)
    pools = Pools(preset, device)
    per_pool = preset.steps_per_pass * preset.passes
    index = -1
    seen, since = 0.0, time.monotonic()
    while clock.progress < 1:
        if clock.step // per_pool != index:
            before = time.monotonic()
            index = clock.step // per_pool
            limit = concepts_in_pool(index, count)
            latents, ids = pools.get(index, limit)
            pools.start(index + 1, concepts_in_pool(index + 1, count))
            print(f"pool {index} of {limit} concepts", flush=True)
            since += time.monotonic() - before
        for optimizer, rate in zip(optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_factor(clock)
        within = clock.step % per_pool
        chosen = shuffled(preset, index, within)
        loss = training_loss(run, latents[chosen].to(device).float(), ids[chosen].to(device), autocast)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_average(average, model, min(preset.ema, (1 + clock.step) / (10 + clock.step)))
        clock.tick()
        seen += loss.detach().item()
        if clock.step % 100 == 0:
            rate = 100 * preset.batch / (time.monotonic() - since)
            print(f"step {clock.step} progress {clock.progress:.4f} loss {seen / 100:.4f} {rate:.0f}/s", flush=True)
            seen, since = 0.0, time.monotonic()
        if clock.step % 500 == 0:
            save_checkpoint(path, {"model": model, "average": average}, optimizers, clock)
    pools.stop()
    save_checkpoint(path, {"model": model, "average": average}, optimizers, clock)
    facts = {
        "steps": clock.step, "samples": clock.step * preset.batch, "minutes": round(clock.elapsed / 60, 1)
    }  # fmt: skip
    finished.write_text(json.dumps(facts))
    print(f"transformer finished: {facts}", flush=True)
