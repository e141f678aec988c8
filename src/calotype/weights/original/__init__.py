"""How the original files of Stable Diffusion spell its networks: key maps, computed from the keys and shapes of a file.

    names       tables and helpers that the others share
    unet        the denoiser
    vae         the autoencoder
    clip        the text encoders, of OpenAI and of OpenCLIP
    controlnet  a ControlNet
    family      which published family a file is of, and what was published with it

This module imports none of them.
"""
