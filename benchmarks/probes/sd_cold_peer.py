"""Import, load and draw one picture with diffusers: `python sd_cold_peer.py REPOSITORY`."""

import json
import sys
import time
from typing import Any

import diffusers
import torch
from PIL import ImageStat

StableDiffusionPipeline: Any = diffusers.StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
generator = torch.Generator().manual_seed(0)
picture = pipe("a red apple", height=64, width=64, num_inference_steps=1, generator=generator).images[0]
mean = sum(ImageStat.Stat(picture).mean) / 3
print(json.dumps({"cpu": time.process_time(), "mean": mean, "modules": len(sys.modules)}))
