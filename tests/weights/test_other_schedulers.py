"""Every scheduler of the reference: an index that names it gets calotype's, or is told what to give in its place."""

import inspect
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from calotype import sampling
from calotype._names import ECOSYSTEM
from calotype.errors import ComponentError, RepositoryError
from calotype.sampling import DDIMScheduler, DDPMScheduler, Scheduler
from calotype.weights.aliases import SAME
from calotype.weights.components import load_components
from calotype.weights.other_schedulers import CLOSEST, UNLIKE, instead_of
from calotype.weights.registry import theirs

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # the reference's

THEIRS = sorted(
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and not name.startswith("Flax") and inspect.isclass(getattr(diffusers, name))
)


def load(folder: Path, name: str, **fields: Any) -> Any:
    (folder / "scheduler").mkdir()
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", name]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name, **fields}))
    return load_components(folder, {"scheduler": Scheduler})["scheduler"]


def defaults(name: str) -> dict[str, Any]:
    """The fields that the reference writes for its defaults; none where it needs what is not installed."""
    cls = getattr(diffusers, name)
    return {} if cls.__module__.startswith("diffusers.utils.dummy") else dict(cls().config)


@pytest.mark.parametrize("name", [name for name in THEIRS if name in ECOSYSTEM or name in SAME])
def test_its_defaults_are_read_by_the_scheduler_of_that_name(tmp_path: Path, name: str) -> None:
    fields = {key: value for key, value in defaults(name).items() if not key.startswith("_")}
    found = load(tmp_path, name, **fields)
    assert type(found) is getattr(sampling, SAME.get(name, name))
    assert {key: found.config.model_dump(mode="json")[key] for key in fields} == fields
    assert len(found.schedule(5)) >= 5


@pytest.mark.parametrize("name", [name for name in THEIRS if name not in ECOSYSTEM and name not in SAME])
def test_any_other_is_refused_before_its_library_is_asked(tmp_path: Path, name: str) -> None:
    said = (
        r"; give scheduler=\w+\(" if name in CLOSEST else ", nor one for networks that are trained for it; .* give sc"
    )
    with pytest.raises(
        ComponentError, match=rf"'scheduler' is \['diffusers', '{name}'\], which calotype does not hav.*{said}"
    ):
        load(tmp_path, name)


def test_the_tables_name_what_there_is() -> None:
    assert not {*CLOSEST, *UNLIKE} & {*ECOSYSTEM, *SAME}
    for said in CLOSEST.values():
        written = said.replace(", ...", "").replace("...", "")
        assert isinstance(eval(written, {n: getattr(sampling, n) for n in sampling.__all__}), Scheduler)
    assert instead_of("calotype", "RePaintScheduler") == instead_of("diffusers", "DDIMScheduler") == ""


def test_a_name_that_nobody_has_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no component class 'DDIMSchedular'; did you mean 'DDIMScheduler'"):
        load(tmp_path, "DDIMSchedular")


@pytest.mark.parametrize(
    ("name", "cls"), [("DDIMParallelScheduler", DDIMScheduler), ("DDPMParallelScheduler", DDPMScheduler)]
)
def test_a_scheduler_with_another_name_makes_the_same_steps(tmp_path: Path, name: str, cls: Any) -> None:
    reference = getattr(diffusers, name)(beta_schedule="scaled_linear", clip_sample=False)
    reference.save_pretrained(tmp_path)
    ours = cls.from_pretrained(tmp_path)
    assert theirs("diffusers", name) is getattr(diffusers, name)  # what asks for the library's own gets that
    for scheduler in (reference, ours):
        scheduler.set_timesteps(4)
    x = y = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    for step, (here, there) in enumerate(zip(ours.timesteps, reference.timesteps, strict=True)):
        draws = [torch.Generator().manual_seed(step) for _ in range(2)]
        x = ours.step(torch.sin(x), here, x, generator=draws[0]).prev_sample
        y = reference.step(torch.sin(y), there, y, generator=draws[1]).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
