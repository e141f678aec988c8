"""Import, load and draw one picture with calotype: `python sd_cold_ours.py REPOSITORY`."""

import json
import sys
import time

from PIL import ImageStat

from calotype import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], device="cpu")
picture = pipe(prompt="a red apple", height=64, width=64, num_inference_steps=1, seed=0).image
mean = sum(ImageStat.Stat(picture).mean) / 3
print(json.dumps({"cpu": time.process_time(), "mean": mean, "modules": len(sys.modules)}))
