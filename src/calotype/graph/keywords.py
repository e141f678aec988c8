"""What calls of other libraries are made with, and what says the same here: a table for messages."""

from collections.abc import Mapping
from difflib import get_close_matches

OTHERS: Mapping[str, str] = {
    "output_type": 'pictures come as PIL images; outputs=("latents",) gives another value of the pipeline',
    "latents": 'write given={"noise": latents}',
    "prompt_embeds": 'write given={"prompt_embeds": prompt_embeds}, or Branches(positive=..., negative=...)',
    "negative_prompt_embeds": 'write given={"prompt_embeds": Branches(positive=prompt_embeds, negative=...)}',
    "generator": "write seed=; image k of a prompt is drawn with seed + k",
    "num_images_per_prompt": "write num_images=",
    "batch_size": "write num_images=",
    "callback": "write: for event in pipe.stream(...), whose events have index, latents and preview()",
    "callback_steps": "write: for event in pipe.stream(...), which gives an event for each step",
    "callback_on_step_end": "write: for event in pipe.stream(...), whose events have index, latents and preview()",
    "callback_on_step_end_tensor_inputs": "the events of pipe.stream(...) have the latents",
    "cross_attention_kwargs": "set how strongly adapters run with pipe.set_adapters(...) before the call",
    "joint_attention_kwargs": "set how strongly adapters run with pipe.set_adapters(...) before the call",
    "return_dict": "a call always gives a Result; leave it out",
    "eta": 'with DDIMScheduler write given={"sigmas": pipe.scheduler.schedule(50, solver=Ddim(eta=...))}, of '
    "calotype.sampling.solver",
    "timesteps": 'write given={"sigmas": pipe.scheduler.schedule(timesteps=...)}',
    "sigmas": 'write given={"sigmas": pipe.scheduler.schedule(sigmas=...)}',
    "num_inference_steps": "write steps=",
    "steps": "write num_inference_steps=",
    "mask_image": "write mask=",
    "mask": "write mask_image=",
    "ip_adapter_image": "insert the pack for it first: pipe.with_units(image_prompt(...))",
    "control_image": "insert the pack for it first: pipe.with_units(control(...))",
    "controlnet_conditioning_scale": "insert the pack for it first: pipe.with_units(control(...))",
}
"""What to write instead of a keyword that the ecosystem's calls take."""

LISTS: Mapping[str, str] = {
    "generator": "one draws for all pictures; for a list write seed=: image k of a prompt is drawn with seed + k",
    "seed": "image k of a prompt is drawn with seed + k; for other seeds call the pipeline once for each",
}
"""What to say where an input that is one value for the whole call was given a list of them."""

NEEDS: Mapping[str, str] = {"prompt_embeds": "prompt", "negative_prompt_embeds": "prompt"}
"""The input without which a pipeline has not the value that the message names."""

_ALIKE = 0.75
"""How alike a misspelled keyword must be to one of these. With less, `images` would be told of `sigmas`."""


def instead_of(name: str, known: Mapping[str, object]) -> str:
    """What to write instead of a keyword that is no input, misspelled or not; empty for one that nobody has.

    A word for another input, or for a value made from one, is kept only where the pipeline has that input.
    """
    if name not in OTHERS and not get_close_matches(name, known, n=1):
        name = next(iter(get_close_matches(name, OTHERS, n=1, cutoff=_ALIKE)), name)
    if NEEDS.get(name, name) not in {name, *known}:
        return ""
    said = OTHERS.get(name, "")
    wanted = said.removeprefix("write ").rstrip("=") if said.startswith("write ") and said.endswith("=") else None
    return "" if wanted is not None and wanted not in known else said
