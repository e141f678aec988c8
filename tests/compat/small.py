"""A pipeline of the dialect small enough to follow by hand, and units to build others with."""

import functools
import inspect

import torch
from torch import nn

from calotype.compat.diffsynth import BasePipeline, FlowMatchScheduler, PipelineUnit
from stubs import Log


class Text(nn.Module):
    """Text to [1, 2, 4]; remembers the texts that it was asked for."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.log = Log()

    @property
    def texts(self):
        return self.log.noted

    def forward(self, text):
        self.texts.append(text)
        return self.weight * torch.full((1, 2, 4), sum(map(ord, text)) % 101 / 101)


class Net(nn.Module):
    """A velocity that depends on latents, time and text."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x, text, timestep):
        return self.weight * x * (0.5 + timestep.view(-1, 1, 1, 1) / 1000) + text.mean((1, 2)).view(-1, 1, 1, 1)


class Vae(nn.Module):
    """Latents to a picture and back."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def decode(self, latents, device=None):
        return torch.sin(self.weight * latents)


def unit(process, name="Unit", **declared):
    """A unit of a class of this name whose `process` is a function `(pipe, ...)`."""
    return type(name, (PipelineUnit,), {"process": as_method(process)})(**declared)


def as_method(function):
    """A function of `(pipe, ...)` as a method with the same signature after `self`."""

    @functools.wraps(function)
    def process(self, *args, **kwargs):
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    process.__signature__ = signature.replace(parameters=[me, *signature.parameters.values()])
    return process


class Noise(PipelineUnit):
    def __init__(self):
        super().__init__(input_params=("height", "width", "seed", "rand_device"), output_params=("noise",))

    def process(self, pipe, height, width, seed, rand_device):
        return {"noise": pipe.generate_noise((1, 3, height, width), seed=seed, rand_device=rand_device)}


class Prompt(PipelineUnit):
    def __init__(self):
        super().__init__(
            seperate_cfg=True,
            input_params_posi={"prompt": "prompt"},
            input_params_nega={"prompt": "negative_prompt"},
            output_params=("prompt_emb",),
            onload_model_names=("text_encoder",),
        )

    def process(self, pipe, prompt):
        pipe.load_models_to_device(self.onload_model_names)
        return {"prompt_emb": pipe.text_encoder(prompt)}


class Latents(PipelineUnit):
    def __init__(self):
        super().__init__(input_params=("noise",), output_params=("latents",))

    def process(self, pipe, noise):
        return {"latents": noise}


def model_fn(dit, latents, timestep, prompt_emb, **kwargs):
    return dit(latents, prompt_emb, timestep)


class Small(BasePipeline):
    """Text to an 8 x 8 picture. Arguments replace parts of it."""

    def __init__(self, units=None, more=(), loop=model_fn, in_iteration_models=("dit",), **options):
        super().__init__(device="cpu", torch_dtype=torch.float32, **options)
        self.scheduler = FlowMatchScheduler("Wan")
        self.text_encoder: Text = None
        self.dit: Net = None
        self.vae: Vae = None
        self.controlnet: Net = None
        self.in_iteration_models = in_iteration_models
        self.units = [Noise(), Prompt(), Latents(), *more] if units is None else units
        self.model_fn = loop

    @torch.no_grad()
    def __call__(
        self,
        prompt,
        negative_prompt="",
        cfg_scale=4.0,
        denoising_strength=1.0,
        height=8,
        width=8,
        seed=None,
        rand_device="cpu",
        controlnet_image=None,
        num_inference_steps=4,
        progress_bar_cmd=list,
    ):
        self.scheduler.set_timesteps(num_inference_steps, denoising_strength=denoising_strength)
        posi, nega = {"prompt": prompt}, {"negative_prompt": negative_prompt}
        shared = {
            "cfg_scale": cfg_scale,
            "height": height,
            "width": width,
            "seed": seed,
            "rand_device": rand_device,
            "controlnet_image": controlnet_image,
        }
        for unit in self.units:
            shared, posi, nega = self.unit_runner(unit, self, shared, posi, nega)
        self.load_models_to_device(self.in_iteration_models)
        models = {name: getattr(self, name) for name in self.in_iteration_models}
        for progress_id, timestep in enumerate(progress_bar_cmd(self.scheduler.timesteps)):
            told = {"timestep": timestep.unsqueeze(0), "progress_id": progress_id}
            predicted = self.cfg_guided_model_fn(self.model_fn, cfg_scale, shared, posi, nega, **models, **told)
            shared["latents"] = self.step(self.scheduler, progress_id=progress_id, noise_pred=predicted, **shared)
        self.load_models_to_device(["vae"])
        image = self.vae_output_to_image(self.vae.decode(shared["latents"], device=self.device))
        self.load_models_to_device([])
        return image


def small(*, cls=Small, **options):
    """A pipeline with fresh models, but for the controlnet."""
    pipe = cls(**options)
    pipe.text_encoder, pipe.dit, pipe.vae = Text(), Net(), Vae()
    return pipe
