"""Import, load and one forward pass with diffusers: `python cold_start_peer.py REPOSITORY`."""

import json
import sys
import time
from typing import Any

import diffusers
import torch

DDPMPipeline: Any = diffusers.DDPMPipeline
pipe = DDPMPipeline.from_pretrained(sys.argv[1])
with torch.no_grad():
    side = pipe.unet.config.sample_size
    output = pipe.unet(torch.full((1, 3, side, side), 0.5), 500).sample
print(
    json.dumps(
        {"cpu": time.process_time(), "sum": float(output.double().abs().sum()), "modules": len(sys.modules)}
    )
)  # fmt: skip
