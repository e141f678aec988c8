"""Sizes to train, beside the published one."""

from calotype.models.qwen_image.config import QwenImageTransformer2DConfig


def emoji_64() -> QwenImageTransformer2DConfig:
    """For the text encoder and the autoencoder of the embedded model, `calotype/emoji-64`: 8 million parameters.

    A token is one of its latents, of 16 channels, and a text is 192 wide: `QwenImageTransformer2DModel(**emoji_64())`.
    """
    return QwenImageTransformer2DConfig(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=192,
        axes_dims_rope=(8, 12, 12),
    )
