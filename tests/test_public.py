"""The public names: pinned, resolvable, known to type checkers, and each as cheap as it can be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import calotype
from calotype._names import ECOSYSTEM, PUBLIC


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_is_the_table_of_names() -> None:
    assert calotype.__all__ == sorted(calotype.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    assert set(calotype.__all__) == set(PUBLIC)
    assert set(PUBLIC) > ECOSYSTEM
    assert set(dir(calotype)) >= set(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_resolves(name: str) -> None:
    assert getattr(calotype, name) is not None


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(calotype.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert set(seen) == set(PUBLIC)
    for name, module in seen.items():
        assert module.startswith(PUBLIC[name]) or PUBLIC[name].startswith(module)


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DDPMPipline'; did you mean 'DDPMPipeline'"):
        _ = calotype.DDPMPipline


def test_importing_the_package_imports_no_array_library() -> None:
    code = "import calotype, sys; print([m for m in ('torch', 'numpy', 'PIL', 'pydantic') if m in sys.modules])"
    assert run(code) == "[]"


def test_the_graph_needs_no_array_library() -> None:
    modules = "calotype.graph.graph, calotype.graph.run, calotype.graph.split, calotype.graph.draw"
    assert run(f"import {modules}, sys; print([m for m in ('torch', 'numpy') if m in sys.modules])") == "[]"


def test_a_pipeline_imports_neither_transformers_nor_the_hub_client() -> None:
    code = (
        "from calotype import DDPMPipeline, TextToImagePipeline, UNet2DModel; import sys;"
        "print([m for m in ('transformers', 'huggingface_hub', 'diffusers') if m in sys.modules])"
    )
    assert run(code) == "[]"
