"""`T2IAdapter` beside the reference: equal maps for equal weights (fp32, 1e-5), equal names and shapes."""

import inspect
import re

import diffusers
import pytest
import torch

from calotype.errors import ConfigError, InputError
from calotype.models.t2i_adapter import T2IAdapter, T2IAdapterConfig

SMALL = {"channels": (8, 12, 16, 16), "num_res_blocks": 2, "downscale_factor": 4}
SPACE = {
    "full": {},
    "grey": {"in_channels": 1, "channels": (8, 8)},
    "light": {"adapter_type": "light_adapter", "channels": (8, 12, 16), "num_res_blocks": 3},
    "XL": {"adapter_type": "full_adapter_xl"},
    "one map": {"channels": (8,)},
}


def pair(**changes):
    """Ours and the reference with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.T2IAdapter(**{**SMALL, **changes}).eval()
    ours = T2IAdapter(**{**SMALL, **changes}).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize("name", SPACE)
@pytest.mark.parametrize(("height", "width"), [(32, 64), (36, 20)])
@torch.no_grad()
def test_equal_to_the_reference(name, height, width):
    ours, theirs = pair(**SPACE[name])
    picture = torch.rand(2, ours.config.in_channels, height, width)
    found, wanted = ours(picture), theirs(picture)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert float(other.abs().max()) > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SPACE)
def test_the_least_common_size_is_the_references(name):
    ours, theirs = pair(**SPACE[name])
    assert ours.config.downscale == theirs.total_downscale_factor


FULL = {
    "SD": ({"channels": [320, 640, 1280, 1280]}, 77.37),
    "light": ({"channels": [320, 640, 1280], "num_res_blocks": 4, "adapter_type": "light_adapter"}, 18.69),
    "XL": ({"adapter_type": "full_adapter_xl", "downscale_factor": 16}, 79.02),
}


@pytest.mark.parametrize("name", FULL)
def test_full_sizes_have_the_references_names_and_shapes(name):
    fields, millions = FULL[name]
    with torch.device("meta"):
        ours, theirs = T2IAdapter(**fields), diffusers.T2IAdapter.from_config(fields)
    shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_defaults_are_the_references():
    parameters = inspect.signature(diffusers.T2IAdapter.__init__).parameters.values()
    reference = {
        p.name: tuple(p.default) if p.name == "channels" else p.default for p in parameters if p.name != "self"
    }
    assert T2IAdapterConfig().model_dump() == reference


def test_a_saved_network_comes_back_in_both_libraries(tmp_path):
    ours, _ = pair(**SPACE["light"])
    ours.save_pretrained(tmp_path)
    loaded = T2IAdapter.from_pretrained(tmp_path)
    reference = diffusers.T2IAdapter.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for one, other in zip(loaded(picture), reference(picture), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_type": "multi_adapter"}, "adapter_type"),
        ({"adapter_type": "full_adapter_xl", "channels": (8, 8, 8, 12)}, "equal from the third on"),
        ({"adapter_type": "light_adapter", "channels": (2,)}, "at least 4"),
        ({"chanels": (8,)}, "did you mean 'channels'?"),
    ],
)
def test_what_a_config_may_not_say(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        T2IAdapter(**{**SMALL, **changes})


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 30, 32), (3, 32, 32)])
def test_what_a_call_may_not_give(shape):
    with pytest.raises(InputError, match=re.escape("must be [batch, 3, height, width] with sides that are multiples")):
        T2IAdapter(**SMALL)(torch.zeros(shape))
