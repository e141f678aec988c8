"""The small preset of Qwen-Image's transformer, between the embedded model's text encoder and autoencoder."""

import torch

from calotype import DiffusionPipeline, QwenImageTransformer2DModel
from calotype.models.qwen_image import emoji_64
from calotype.nn.patches import patched, unpatched


def test_it_takes_the_embedded_models_texts_and_latents_and_learns():
    embedded = DiffusionPipeline.from_pretrained("calotype/emoji-64")
    torch.manual_seed(0)
    network = QwenImageTransformer2DModel(**emoji_64())
    assert 7e6 < sum(parameter.numel() for parameter in network.parameters()) < 9e6
    words = [embedded.tokenizer(prompt) for prompt in ("a purple cat", "rocket")]
    ids, mask = (torch.stack(parts) for parts in zip(*words, strict=True))
    with torch.no_grad():
        encoded = embedded.text_encoder(ids, mask)
        latents = embedded.vae.encode(torch.rand(2, 3, 64, 64) * 2 - 1)
    noise = torch.randn_like(latents)
    sigma = torch.tensor([0.3, 0.8])
    noisy = torch.lerp(latents, noise, sigma[:, None, None, None])
    tokens = patched(noisy, network.config.patch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(4):
        velocity = network(tokens.tokens, encoded[0], mask, sigma, [[tokens.grid]] * 2).sample
        loss = (unpatched(velocity, tokens.grid, network.config.patch_size) - (noise - latents)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
