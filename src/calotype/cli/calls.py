"""One call of a model, as both forms of `calotype generate` make it: its name, its count of pictures, its pipeline."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.cli.command import Model
from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.graph.inputs import Call
    from calotype.pipelines.base import DiffusionPipeline


def default_name(model: Model, call: "Call") -> str:
    """What a call's pictures are named after: its prompt, or the model where there is none."""
    from calotype.cli.files import name_of

    prompt = call.values.get("prompt")
    if isinstance(prompt, list):
        prompt = prompt[0]
    return name_of(prompt if isinstance(prompt, str) else Path(model.source).name)


def count_pictures(model: Model, call: "Call") -> int:
    """How many pictures a call makes. Raises `InputError` when its pipeline makes none."""
    from calotype.graph.planning import make_plan
    from calotype.pipelines.pictures import is_picture

    graph = model.pipeline.graph
    plan = make_plan(graph, call, dict.fromkeys(graph.components, True))
    pictures = sum(is_picture(graph.wires[wire]) for wire in plan.outputs)
    if not pictures:
        raise InputError(f"{graph.owner} makes {', '.join(plan.outputs)}, which is no picture; call it from Python")
    return pictures * plan.prompts * plan.images


def load(model: Model, options: dict[str, Any]) -> "DiffusionPipeline":
    """The pipeline with its weights, its packs of units and its adapters."""
    own: Any = next(cls for cls in model.pipeline.__mro__ if not getattr(cls, "_inserted", False))
    pipe: DiffusionPipeline = own.from_pretrained(model.place, **model.options, **options)
    for pack in model.packs:
        pipe = pipe.with_units(pack)
    for source, weight in model.adapters:
        pipe.load_adapter(source, weight=weight)
    return pipe
