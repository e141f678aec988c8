"""The distribution of latents, under the name that it had before other autoencoders shared it."""

from calotype.nn.distribution import DiagonalGaussian

__all__ = ["DiagonalGaussian"]
