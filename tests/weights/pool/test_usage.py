"""The device and dtype knobs of a config: what acts, and what is refused because it cannot."""

import pytest
import torch

from calotype import ModelConfig
from calotype.errors import ConfigError, InputError
from calotype.weights.pool.usage import usage

CPU, META = torch.device("cpu"), torch.device("meta")


def use(dtype=torch.float32, device=None, **fields):
    return usage(ModelConfig(path="a", **fields), dtype, device)


def test_defaults_are_the_pools() -> None:
    assert use() == use(device=CPU)
    assert (use(torch.float16, META).dtype, use(torch.float16, META).device) == (torch.float16, META)


def test_computation_goes_before_the_pools_defaults() -> None:
    found = use(torch.float16, CPU, computation_dtype="bfloat16", computation_device="meta")
    assert (found.dtype, found.device) == (torch.bfloat16, META)
    assert use(computation_dtype="auto").dtype is None


def test_offloaded_to_the_cpu_is_where_it_waits() -> None:
    assert use(computation_device="meta", offload_device="cpu").device == CPU


def test_knobs_that_repeat_what_is_done_anyway_are_taken() -> None:
    same = {f"{stage}_dtype": torch.bfloat16 for stage in ("offload", "onload", "preparing", "computation")}
    there = {"onload_device": "meta", "preparing_device": "meta", "computation_device": "meta"}
    assert use(**same, **there).device == META


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"offload_dtype": torch.float8_e4m3fn, "onload_dtype": "float8_e5m2"},
            "onload_dtype=torch.float8_e5m2 asks for weights that are kept in .* and torch.float8_e4m3fn and computed",
        ),
        ({"onload_dtype": "float16"}, "onload_dtype=torch.float16.*give computation_dtype=torch.float16"),
        ({"preparing_dtype": "float16"}, "preparing_dtype=torch.float16"),
        ({"offload_device": "disk"}, "offload_device='disk' needs networks that are kept on the disk.*it can be 'cpu'"),
        ({"offload_device": "meta"}, "offload_device='meta'.*give the pipeline a budget: memory='8GiB'"),
        ({"onload_device": "cpu", "computation_device": "meta"}, "onload_device='cpu'.*it can be 'meta'"),
        ({"preparing_device": "meta"}, "preparing_device='meta'.*it can be 'cpu'"),
        ({"clear_parameters": True}, "clear_parameters=True"),
    ],
)
def test_what_needs_more_than_one_place_or_type_is_refused(fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        use(**fields)


def test_an_8_bit_float_is_what_weights_are_kept_in() -> None:
    stages = {"offload_dtype": torch.float8_e4m3fn, "onload_dtype": "float8_e4m3fn", "preparing_dtype": "bfloat16"}
    found = use(computation_dtype="bfloat16", **stages)
    assert (found.dtype, found.storage) == (torch.bfloat16, torch.float8_e4m3fn)
    assert use(computation_dtype="bfloat16", offload_dtype="bfloat16").storage is None


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="device 'cuda:77' is not there"):
        use(computation_device="cuda:77")
