"""Predicted and resident memory of one call with a large network: `python -m benchmarks.probes.resident FOLDER`."""

import gc
import json
import sys

from benchmarks.memory import PeakResident, resident_bytes, settle
from calotype import DDPMPipeline, DDPMScheduler, UNet2DModel


def main(folder: str) -> None:
    gc.collect()
    before = resident_bytes()
    unet = UNet2DModel.from_pretrained(folder, dtype="float32")
    pipe = DDPMPipeline(unet=unet, scheduler=DDPMScheduler())
    predicted = pipe.plan(num_inference_steps=1, seed=0).predicted_peak
    settle()  # what the cast left of the file's pages is not the call's
    with PeakResident() as sampler:
        pipe(num_inference_steps=1, seed=0)
    print(json.dumps({"predicted": predicted, "resident": sampler.highest - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
