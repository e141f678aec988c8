"""When a network may take the short ways that only plain inference allows."""

import torch
from torch.autograd import forward_ad


def infers() -> bool:
    """Whether what is computed here is wanted as it is: without gradients, those of forward mode included, and with no
    transform of functions (`torch.vmap`, `torch.func`) at work.

    Then memory that nothing else holds may be taken for a result, and kernels may compute that PyTorch can neither
    differentiate nor repeat over a further dimension.
    """
    if torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling():
        return True
    return torch._C._functorch.peek_interpreter_stack() is None and forward_ad._current_level < 0
