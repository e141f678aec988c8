"""What importing costs: nothing before it is needed."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest

import calotype


def said(code: str) -> str:
    """What some code prints in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def loaded(code):
    """Which of the slow libraries a fresh interpreter has loaded after running some code."""
    ask = "import sys; print(*(n for n in ('torch', 'numpy', 'PIL', 'transformers', 'diffusers') if n in sys.modules))"
    return set(said(f"{code}\n{ask}").split())


def test_importing_calotype_costs_nothing():
    assert loaded("import calotype; dir(calotype); calotype.__version__") == set()


def test_the_graph_knows_no_array_library():
    folder = Path(calotype.__file__).parent / "graph"
    modules = [f"calotype.graph.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"]
    assert "calotype.graph.run" in modules
    assert loaded(f"import {', '.join(modules)}") == set()


def test_a_graph_is_built_and_planned_without_one():
    code = """
from calotype import Inputs, unit
from calotype.graph.graph import build_graph
from calotype.graph.calls import read_call
from calotype.graph.planning import make_plan
class Text(Inputs):
    text: str
@unit
def length(text: str) -> int:
    return len(text)
graph = build_graph("Pipe", (length,), Text, {})
assert make_plan(graph, read_call(Text, {"text": "a"}), {}).outputs == ("length",)
"""
    assert loaded(code) == set()


def test_pipelines_do_without_slow_libraries_that_they_do_not_use():
    assert not loaded("from calotype import DiffusionPipeline, Denoise") & {"transformers", "diffusers"}


ROWS = {
    "DDPM": "from calotype import DDPMPipeline, UNet2DModel, DDPMScheduler",
    "embedded": "from calotype import MiniAutoencoderKL, MiniTransformer2DModel, TextToImagePipeline, WordTextEncoder",
    "Stable Diffusion": "from calotype import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel",
}
"""A pipeline class with its network classes, as the benchmark of imports measures it."""

PACKAGES = {
    "calotype",
    "jaxtyping",
    "einops",
}
"""What a pipeline's classes are declared with. Everything else waits for who loads, runs, saves or draws."""


@pytest.mark.parametrize("row", ROWS)
def test_the_cycle_collector_rests_while_names_are_imported(row: str) -> None:
    code = f"""
import gc
seen = []
gc.callbacks.append(lambda phase, info: seen.append(info["generation"]) if phase == "stop" else None)
{ROWS[row]}
print(max(seen, default=0), len(seen) < 40, gc.isenabled(), gc.get_freeze_count())
"""
    assert said(code) == "1 True True 0"


def test_a_collector_that_was_off_stays_off_and_what_was_frozen_stays_frozen() -> None:
    assert said("import gc; gc.disable(); from calotype import Denoise; print(gc.isenabled())") == "False"
    frozen = "import gc; gc.freeze(); n = gc.get_freeze_count(); from calotype import Denoise"
    assert said(f"{frozen}; print(n - gc.get_freeze_count() < 10, gc.isenabled())") == "True True"


def test_the_collector_runs_again_after_an_import_that_fails() -> None:
    code = """
import gc, sys
sys.modules["calotype.sampling.denoise"] = None
try:
    from calotype import Denoise
except ImportError:
    print(gc.isenabled())
"""
    assert said(code) == "True"


@functools.cache
def beyond_torch(code: str) -> frozenset[str]:
    """The modules that some code imports in a fresh interpreter besides those that `import torch` does."""
    program = f"import sys, torch; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    return frozenset(said(program).split())


@pytest.mark.parametrize(("row", "most"), [("DDPM", 92), ("embedded", 85), ("Stable Diffusion", 100)])
def test_a_pipeline_class_imports_what_declares_it_and_no_more(row: str, most: int) -> None:
    found = beyond_torch(ROWS[row])
    packages = {name.split(".")[0] for name in found if not name.startswith("_sysconfigdata")}
    assert packages - sys.stdlib_module_names <= PACKAGES | {"numpy"}
    assert not {name for name in found if name.startswith(("torch._dynamo", "torch._inductor"))}
    assert len(found) <= most, sorted(found)


@pytest.mark.parametrize("row", ROWS)
def test_loading_saving_and_drawing_wait_for_their_first_use(row: str) -> None:
    found = {name for name in beyond_torch(ROWS[row]) if name.startswith("calotype.")}
    late = ("weights", "cli", "compat", "sharing", "community", "graph.draw", "graph.split", "memory.peak",
            "pipelines.loading", "pipelines.prediction", "pipelines.replay")  # fmt: skip
    assert not {name for name in found if name.removeprefix("calotype.").startswith(late)}


def test_one_pipeline_imports_the_networks_and_schedulers_that_it_has() -> None:
    found = beyond_torch(ROWS["DDPM"])
    assert {name.split(".")[2] for name in found if name.startswith("calotype.models.")} == {"unet_2d"}
    schedulers = {name.split(".")[3] for name in found if name.startswith("calotype.sampling.schedulers.")}
    assert schedulers <= {"base", "ddpm", "fields", "training"}


@pytest.mark.parametrize("row", ROWS)
def test_nothing_is_validated_before_something_is_made(row: str) -> None:
    assert not {name for name in beyond_torch(ROWS[row]) if name.startswith(("pydantic", "annotated_types"))}


def test_a_scheduler_is_made_with_its_pipeline() -> None:
    from calotype import DDPMPipeline, DDPMScheduler

    assert not isinstance(DDPMPipeline.__dict__["scheduler"], DDPMScheduler)
    assert isinstance(DDPMPipeline.scheduler, DDPMScheduler)
