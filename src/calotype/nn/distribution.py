"""The distribution that an encoder gives for the latents of a picture or of a video."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import InputError


@dataclass(frozen=True)
class DiagonalGaussian:
    """A normal distribution for each latent, apart from the others ("Auto-Encoding Variational Bayes").

    `logvar` is the logarithm of the variance, between -30 and 20.
    """

    mean: Float[Tensor, "b c *size"]
    logvar: Float[Tensor, "b c *size"]

    @classmethod
    def of(cls, moments: Float[Tensor, "b c2 *size"]) -> "DiagonalGaussian":
        """The distribution whose mean and log-variance are the two halves of the channels."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    @property
    def std(self) -> Float[Tensor, "b c *size"]:
        """The standard deviation."""
        return torch.exp(0.5 * self.logvar)

    @property
    def var(self) -> Float[Tensor, "b c *size"]:
        """The variance."""
        return torch.exp(self.logvar)

    def mode(self) -> Float[Tensor, "b c *size"]:
        """The likeliest latents: the mean."""
        return self.mean

    def sample(
        self, generator: torch.Generator | Sequence[torch.Generator] | None = None
    ) -> Float[Tensor, "b c *size"]:
        """Latents drawn from the distribution.

        Numbers are drawn where the generator is, so that one on the CPU draws the same for every device.

        Args:
            generator: one for all items or one for each, by default PyTorch's own of the latents' device.

        Raises:
            InputError: there are not as many generators as items.
        """
        if generator is None or isinstance(generator, torch.Generator):
            noise = self._noise(generator, len(self.mean))
        elif len(generator) != len(self.mean):
            raise InputError(f"give one generator or one for each of {len(self.mean)} items, got {len(generator)}")
        else:
            noise = torch.cat([self._noise(each, 1) for each in generator])
        return self.mean + self.std * noise

    def kl(self, other: "DiagonalGaussian | None" = None) -> Float[Tensor, " b"]:
        """The Kullback-Leibler divergence of each item from `other`, by default from standard normal latents."""
        if other is None:
            terms = self.mean.square() + self.var - 1 - self.logvar
        else:
            terms = ((self.mean - other.mean).square() + self.var) / other.var - 1 - self.logvar + other.logvar
        return 0.5 * terms.flatten(1).sum(dim=1)

    def _noise(self, generator: torch.Generator | None, items: int) -> Tensor:
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn((items, *self.mean.shape[1:]), generator=generator, device=device, dtype=self.mean.dtype)
        return noise.to(self.mean.device)
