"""GGUF's block types, decoded here as the package that defines them decodes them: equal, bit for bit."""

import gguf
import numpy as np
import pytest
import torch

from calotype.errors import InputError
from calotype.memory.storage import PRECISIONS
from calotype.memory.storage.ggml import GGML
from gguf_files import blocks_of

KINDS = [blocks.name for blocks in GGML]


@pytest.mark.parametrize("name", KINDS)
def test_decoding_equals_the_package(name):
    packed = blocks_of(name.upper(), (3, 512))
    theirs = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[name.upper()])
    ours = PRECISIONS[name].decode({"blocks": torch.from_numpy(packed)}, (3, 512), torch.float32)
    assert np.isfinite(theirs).all() and theirs.std() > 0
    assert np.array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("name", KINDS)
def test_sizes_are_the_package_s(name):
    each, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
    assert (PRECISIONS[name].size, PRECISIONS[name].nbytes_each) == (each, size)
    assert PRECISIONS[name].nbytes((5, 512)) == 5 * 512 // each * size


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_encoding_is_the_package_s(name):
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    packed = PRECISIONS[name].encode(weight)["blocks"]
    theirs = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType[name.upper()])
    assert np.array_equal(packed.numpy(), theirs)


def test_types_with_k_are_not_made():
    with pytest.raises(InputError, match="'q4_k' is read from GGUF files, not made; store in one of q4_0"):
        PRECISIONS["q4_k"].encode(torch.ones(1, 256))


def test_a_row_must_be_whole_blocks():
    assert PRECISIONS["q4_k"].problem((4, 320)) == "its rows are 320 long, no multiple of 256"
    assert PRECISIONS["q8_0"].problem((4, 320)) == ""


def test_a_large_weight_is_decoded_in_strips_alike():
    packed = torch.from_numpy(blocks_of("Q8_0", (700, 1024)))
    precision = PRECISIONS["q8_0"]
    whole = precision.decode_rows({"blocks": packed}, 1024)
    assert torch.equal(precision.decode({"blocks": packed}, (700, 1024), torch.float32), whole)
