"""One forward pass of a network on pixels and one step of its scheduler: the smallest pipeline there is."""

import torch

from calotype import DiffusionPipeline


class UnetSchedulerOneForwardPipeline(DiffusionPipeline):
    """Denoises random pixels once, at timestep 1."""

    def __init__(self, unet, scheduler):
        super().__init__()

        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self):
        """Returns the sample [1, c, h, w] that the scheduler steps to."""
        image = torch.randn(
            (1, self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size),
        )
        timestep = 1

        model_output = self.unet(image, timestep).sample
        scheduler_output = self.scheduler.step(model_output, timestep, image).prev_sample

        return scheduler_output
