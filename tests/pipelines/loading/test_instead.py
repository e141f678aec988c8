"""What is said of repositories whose class calotype does not have."""

import json
from pathlib import Path

import diffusers
import pytest

from calotype import DiffusionPipeline
from calotype._names import PUBLIC
from calotype.errors import RepositoryError
from calotype.pipelines.loading.instead import INSTEAD, NEEDED, advice


def indexed(folder: Path, name: str) -> Path:
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    return folder


@pytest.mark.parametrize("name", [*INSTEAD, *NEEDED])
def test_every_class_that_is_known_gets_its_own_advice(name: str, tmp_path: Path) -> None:
    wanted = f"load it with {INSTEAD[name][0]}.from_pretrained" if name in INSTEAD else f"it is for {NEEDED[name]}"
    with pytest.raises(RepositoryError, match=f"is for a pipeline '{name}', which calotype does not have") as raised:
        DiffusionPipeline.from_pretrained(indexed(tmp_path, name))
    assert wanted in str(raised.value)


def test_the_table_is_of_classes_that_calotype_has_not_and_names_classes_that_it_has() -> None:
    assert not (INSTEAD.keys() | NEEDED.keys()) & PUBLIC.keys()
    assert {cls for cls, _ in INSTEAD.values()} <= PUBLIC.keys()


def test_classes_of_stable_diffusion_in_the_reference_are_ours_or_have_advice() -> None:
    """Those that a repository of Stable Diffusion 1, 2 or XL may name, in the reference that is installed."""
    families = ("stable_diffusion", "stable_diffusion_xl", "controlnet", "pag", "t2i_adapter")
    prefixes = tuple(f"diffusers.pipelines.{family}." for family in families)
    theirs = {n for n in dir(diffusers) if n.startswith("StableDiffusion") and n.endswith("Pipeline")}
    theirs = {n for n in theirs if getattr(diffusers, n).__module__.startswith(prefixes)}
    theirs = {n for n in theirs if "Diffusion3" not in n}
    assert "StableDiffusionControlNetPipeline" in theirs
    general = advice("Unheard", "somewhere")
    assert {n for n in theirs if n not in PUBLIC and advice(n, "somewhere") == general} == set()


def test_perturbed_attention_is_a_policy_here() -> None:
    said = advice("StableDiffusionXLControlNetPAGPipeline", "a/b")
    assert "StableDiffusionXLControlNetPipeline.from_pretrained('a/b') and take guidance=PerturbedAttention" in said
