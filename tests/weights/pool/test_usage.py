"""The device and dtype knobs of a config: what acts, and what is refused because it cannot."""

import pytest
import torch

from calotype import ModelConfig
from calotype.errors import ConfigError, InputError
from calotype.weights.pool.usage import usage

CPU, META = torch.device("cpu"), torch.device("meta")


def use(dtype=torch.float32, device=None, deferred=False, **fields):
    return usage(ModelConfig(path="a", **fields), dtype, device, deferred=deferred)


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


@pytest.mark.parametrize("deferred", [False, True])
def test_the_first_device_of_a_kind_has_two_names(deferred: bool) -> None:
    stages = {"onload_device": "xpu", "preparing_device": "xpu:0"}
    found = use(device=torch.device("xpu"), deferred=deferred, computation_device="xpu:0", **stages)
    assert found.device == (CPU if deferred else torch.device("xpu:0"))
    with pytest.raises(ConfigError, match="'xpu:1' is not where its pipeline has a budget, which is 'xpu'"):
        use(device=torch.device("xpu"), deferred=True, computation_device="xpu:1")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"offload_dtype": torch.float8_e4m3fn, "onload_dtype": "float8_e5m2"},
            "onload_dtype=torch.float8_e5m2 asks for weights that are kept in .* and torch.float8_e4m3fn and computed",
        ),
        ({"onload_dtype": "float16"}, "onload_dtype=torch.float16.*give computation_dtype=torch.float16"),
        ({"preparing_dtype": "float16"}, "preparing_dtype=torch.float16"),
        (
            {"offload_device": "disk"},
            "offload_device can be 'cpu', got 'disk'.*a budget: memory='8GiB', or vram_limit=8",
        ),
        ({"offload_device": "meta"}, "offload_device can be 'cpu', got 'meta'.*give the pipeline a budget"),
        ({"onload_device": "cpu", "computation_device": "meta"}, "onload_device can be 'meta', got 'cpu'"),
        ({"preparing_device": "meta"}, "preparing_device can be 'cpu', got 'meta'"),
        ({"preparing_device": "disk", "deferred": True}, "preparing_device can be 'cpu', got 'disk'"),
        ({"offload_device": "meta", "deferred": True}, "offload_device can be 'cpu' or 'disk', got 'meta'"),
        ({"computation_device": "meta", "deferred": True}, "computation_device='meta' is not where its pipeline has a"),
        ({"offload_dtype": "disk"}, "offload_dtype='disk' is for what waits on the disk; give offload_device='disk'"),
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


DISK = {"offload_dtype": "disk", "offload_device": "disk", "onload_dtype": "disk", "onload_device": "disk"}


def test_within_a_budget_networks_wait_in_their_files_or_on_the_cpu(caplog) -> None:
    for fields in (DISK, {"offload_device": "cpu", "onload_device": "cpu"}, {"onload_device": "meta"}):
        found = use(torch.bfloat16, META, deferred=True, preparing_device="meta", **fields)
        assert (found.dtype, found.device, found.storage) == (torch.bfloat16, CPU, None)
    assert not caplog.records


def test_what_is_packed_when_it_is_loaded_does_not_wait_on_the_disk(caplog) -> None:
    found = use(torch.bfloat16, META, deferred=True, **{**DISK, "onload_dtype": torch.float8_e4m3fn})
    assert found.storage == torch.float8_e4m3fn
    assert "a is packed as torch.float8_e4m3fn when it is loaded" in caplog.text


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="device 'cuda:77' is not there"):
        use(computation_device="cuda:77")
