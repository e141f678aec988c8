"""What pipelines of other libraries are told, and what says the same here: tables for messages."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from calotype.errors import did_you_mean

_BUDGET = 'give the pipeline a budget, from_pretrained(..., memory="8GiB"), and what does not fit streams'
_ROOM = 'a budget makes room by itself: from_pretrained(..., memory="8GiB")'
_KERNEL = "there is nothing to turn on: every call takes the kernel that fits"

METHODS: Mapping[str, str] = {
    "delete_adapters": "write unload_adapter(name)",
    "disable_lora": "write set_adapters({})",
    "enable_attention_slicing": _ROOM,
    "enable_group_offload": _BUDGET,
    "enable_model_cpu_offload": _BUDGET,
    "enable_sequential_cpu_offload": _BUDGET,
    "enable_vae_slicing": _ROOM,
    "enable_vae_tiling": "write vae_tile= in the call, or give the pipeline a budget with memory=",
    "enable_xformers_memory_efficient_attention": _KERNEL,
    "encode_prompt": 'write pipe(prompt=..., outputs=("prompt_embeds",))',
    "from_pipe": "write OtherPipeline(**pipe.components)",
    "fuse_lora": "write fuse_adapters()",
    "get_active_adapters": "read pipe.adapters, which has their weights",
    "get_list_adapters": "read pipe.adapters",
    "load_ip_adapter": "insert the pack: pipe.with_units(ip_adapter(), ...), of calotype.pipelines.stable_diffusion",
    "load_lora_into_unet": "write load_adapter(file, component='unet')",
    "load_lora_weights": "write load_adapter(file, name)",
    "progress_bar": "write: for event in pipe.stream(...), whose events have index and total",
    "set_ip_adapter_scale": "write the scale in the call: ip_scale=",
    "set_progress_bar_config": "a call shows none; for one of your own write: for event in pipe.stream(...)",
    "unfuse_lora": "write unfuse_adapters()",
    "unload_lora_weights": "write unload_adapter()",
}
"""What to write instead of a method that pipelines of the ecosystem have."""

_CHECKER = "no pipeline here has one: leave the line out"

PARTS: Mapping[str, str] = {
    "feature_extractor": _CHECKER,
    "image_encoder": "insert the pack of IP-Adapter, which brings one: pipe.with_units(ip_adapter(), ...)",
    "safety_checker": _CHECKER,
    "watermark": _CHECKER,
}
"""What to do instead of reading or setting a component that pipelines of the ecosystem have, and one here has not."""

OPTIONS: Mapping[str, str] = {
    "device_map": 'write placement="auto", or device= for all of it',
    "low_cpu_mem_usage": "leave it out: networks are built without memory and take the mapped file",
    "max_memory": 'write memory={"cuda:0": "20GiB"}',
    "offload_folder": 'write memory="8GiB": what does not fit streams from its own file',
    "quantization_config": 'write memory={"transformer": "nf4"}, of what it is for',
    "requires_safety_checker": "leave it out: no pipeline here has one",
    "safety_checker": "leave it out: no pipeline here has one",
    "token": "log in with the hub's own client, `hf auth login`",
    "trust_remote_code": "code of others is approved by its hash: calotype trust SOURCE",
    "use_auth_token": "log in with the hub's own client, `hf auth login`",
    "use_safetensors": "leave it out: nothing else is read",
}
"""What to write instead of an option that loading in the ecosystem has."""

_ALIKE = 0.85


def unknown_attribute(owner: str, name: str, components: Iterable[str], known: Iterable[str]) -> str:
    """What to say of an attribute that a pipeline has not."""
    habits = {**METHODS, **PARTS}
    habit = next(iter(get_close_matches(name, habits, n=1, cutoff=_ALIKE)), None)
    components = list(components)
    if habit is not None:
        return f"{owner} has no {name!r}; {habits[habit]}"
    near = did_you_mean(name, [*components, *(one for one in known if not one.startswith("_"))])
    return f"{owner} has no {name!r}{near}; its components are {', '.join(components) or 'none'}"


def unknown_component(owner: str, name: str, components: Iterable[str]) -> str:
    """What to say of a component that is set, and that a pipeline has not."""
    components = list(components)
    advice = f"; {PARTS[name]}" if name in PARTS else did_you_mean(name, components)
    return f"{owner} has no component {name!r}{advice}; its components are {', '.join(components)}"
