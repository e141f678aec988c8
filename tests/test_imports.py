"""What importing costs: nothing before it is needed."""

import subprocess
import sys
from pathlib import Path

import calotype


def loaded(code):
    """Which of the slow libraries a fresh interpreter has loaded after running some code."""
    ask = "import sys; print(*(n for n in ('torch', 'numpy', 'PIL', 'transformers', 'diffusers') if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{ask}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


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
from calotype.graph.inputs import read_call
from calotype.graph.plan import make_plan
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
