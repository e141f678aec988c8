"""sd_img2img: a second call from the same picture and prompt with another seed, at small sizes."""

from typing import Any

import torch
from PIL import Image

from benchmarks.counting import calls_of
from benchmarks.harness import Options, Row, at_most, count_row, cpu_timed, exactly, interleaved, ratio_row
from benchmarks.stable_diffusion import SMALL, TINY, peer_pipeline, sd_repository
from calotype import StableDiffusionImg2ImgPipeline

STEPS = 8


def run(options: Options) -> list[Row]:
    folder = sd_repository(options.pick(SMALL, SMALL, TINY))
    side = options.pick(128, 128, 64)
    picture = Image.effect_noise((side, side), 60).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    ours = StableDiffusionImg2ImgPipeline.from_pretrained(folder, device="cpu")
    peer = peer_pipeline("StableDiffusionImg2ImgPipeline", folder)
    words: dict[str, Any] = {"prompt": "a red apple on a table", "negative_prompt": "blue", "image": picture}
    seeds = iter(range(10**6))

    def our_call() -> Any:
        return ours(**words, strength=0.8, num_inference_steps=STEPS, seed=next(seeds))

    def peer_call() -> Any:
        generator = torch.Generator().manual_seed(next(seeds))
        return peer(**words, strength=0.8, num_inference_steps=10, generator=generator)  # 8 of 10 steps

    networks = {"unet": ours.unet, "text_encoder": ours.text_encoder, "image_encoder": ours.vae.encoder}
    with calls_of(**networks) as calls:
        our_call()
        calls.clear()
        our_call()
    theirs = {"unet": peer.unet, "text_encoder": peer.text_encoder, "image_encoder": peer.vae.encoder}
    with calls_of(**theirs) as peer_calls:
        peer_call()
    times = interleaved({"ours": cpu_timed(our_call), "peer": cpu_timed(peer_call)}, options.rounds_of(25, 9))
    encoders = calls["text_encoder"] + calls["image_encoder"]
    counts = {"ours": dict(calls), "peer": dict(peer_calls), "steps": STEPS, "pixels": side}
    name = "from a picture, second call, other seed"
    return [
        count_row(f"{name}: calls of the encoders", encoders, exactly(0), counts=counts),
        ratio_row(f"{name}: CPU", times, at_most(0.93), sides="s"),
    ]
