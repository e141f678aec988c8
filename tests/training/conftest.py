"""What tests of training share."""

from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums are of one order in this process and in those that tests start, which have one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its state for the whole process; each test begins without one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


@pytest.fixture(autouse=True)
def _untouched_random_state() -> Iterator[None]:
    """Training draws from generators of its own: torch's is left as it was."""
    before = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(before)
