"""The models that a pool knows, as a value."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from torch import nn

from calotype.errors import ConfigError, UnknownInput, did_you_mean
from calotype.models.autoencoder_kl import AutoencoderKL
from calotype.models.autoencoder_kl import keys as autoencoder_kl
from calotype.models.autoencoder_kl_qwen_image import AutoencoderKLQwenImage
from calotype.models.autoencoder_kl_qwen_image import keys as autoencoder_kl_qwen_image
from calotype.models.autoencoder_tiny import AutoencoderTiny
from calotype.models.autoencoder_tiny import keys as autoencoder_tiny
from calotype.models.clip_text import CLIPTextModel, CLIPTextModelWithProjection
from calotype.models.clip_text import keys as clip_text
from calotype.models.controlnet import ControlNetModel
from calotype.models.controlnet import keys as controlnet
from calotype.models.ip_adapter import IPAdapter
from calotype.models.ip_adapter import keys as ip_adapter
from calotype.models.mini_autoencoder import MiniAutoencoderKL
from calotype.models.mini_autoencoder import keys as mini_autoencoder
from calotype.models.mini_transformer import MiniTransformer2DModel
from calotype.models.mini_transformer import keys as mini_transformer
from calotype.models.qwen_image import QwenImageControlNetModel, QwenImageTransformer2DModel
from calotype.models.qwen_image import keys as qwen_image
from calotype.models.qwen_image_blockwise_controlnet import QwenImageBlockwiseControlNetModel
from calotype.models.qwen_image_blockwise_controlnet import keys as qwen_image_blockwise_controlnet
from calotype.models.qwen_image_image2lora import QwenImageImage2LoRAModel
from calotype.models.qwen_image_image2lora import keys as qwen_image_image2lora
from calotype.models.t2i_adapter import T2IAdapter
from calotype.models.t2i_adapter import keys as t2i_adapter
from calotype.models.unet_2d import UNet2DModel
from calotype.models.unet_2d import keys as unet_2d
from calotype.models.unet_2d_condition import UNet2DConditionModel
from calotype.models.unet_2d_condition import keys as unet_2d_condition
from calotype.models.word_text_encoder import WordTextEncoder
from calotype.models.word_text_encoder import keys as word_text_encoder
from calotype.weights.original import clip, unet, vae, wan_vae
from calotype.weights.original import controlnet as original_controlnet
from calotype.weights.original import qwen_image as original_qwen_image
from calotype.weights.pool.known import Fields, KnownModel, known_model
from calotype.weights.pool.layout import Keys, Layout, spelled


@dataclass(frozen=True)
class Catalogue:
    """The networks that a `ModelPool` recognises, by `model_name`. Immutable: `with_model` makes another one."""

    models: tuple[KnownModel, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The `model_name` of every model."""
        return tuple(model.model_name for model in self.models)

    def __iter__(self) -> Iterator[KnownModel]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __contains__(self, model_name: object) -> bool:
        return model_name in self.names

    def __getitem__(self, model_name: str) -> KnownModel:
        for model in self.models:
            if model.model_name == model_name:
                return model
        raise UnknownInput(
            f"no model {model_name!r} is known{did_you_mean(model_name, self.names)}; known are {', '.join(self.names)}"
        )

    def with_model(
        self,
        model_name: str,
        cls: type[nn.Module] | str,
        *,
        keys: Keys | None = None,
        layouts: Iterable[Layout] = (),
        renames: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        config: Fields | None = None,
        asks: Iterable[str] = (),
        ignores: Iterable[str] = (),
        defaults: Mapping[str, float | None] | None = None,
    ) -> Self:
        """A catalogue that also knows `cls`, under `model_name`.

        Args:
            cls: the network's class: any `torch.nn.Module`, or `"transformers:Class"`, which is imported when its files
                are found.
            keys: keys of its files that tell them from others, below whatever prefix: regular expressions that match
                a whole key or, in a mapping, also the shape of each, with None for a length that varies. Half of them
                must be in a file for it to be looked at. By default some of the network's own.
            layouts: other spellings of its files, for which renaming is not enough.
            renames: the key map, from the keys in the files to the network's own: a mapping of whole keys, or
                `(pattern, replacement)` pairs that are applied in turn. A class that has `renames` brings them along.
            config: the keywords of the constructor, or a function that tells them from the shapes of the network's
                tensors by (renamed) key.
            asks: keywords that such a function cannot tell and that change what the network computes, whatever value it
                returns for them but None. They must come from a `config.json` beside the file or from
                `ModelConfig(config=...)`.
            ignores: patterns of keys that its files may have and the network does not take.
            defaults: patterns of the network's tensors that its files may lack, and the number that fills them; None
                keeps what the constructor computed.

        Raises:
            ConfigError: the name is taken, `cls` is no network, or a pattern is not a regular expression.
        """
        if model_name in self:
            raise ConfigError(f"a model {model_name!r} is known already; register yours under another model_name")
        model = known_model(
            model_name,
            cls,
            keys=keys,
            layouts=layouts,
            renames=renames,
            config=config,
            asks=asks,
            ignores=ignores,
            defaults=defaults or {},
        )
        return type(self)((*self.models, model))


CATALOGUE = (
    Catalogue()
    .with_model("unet_2d", UNet2DModel, keys=unet_2d.TELLING, config=unet_2d.config_from_shapes, asks=unet_2d.ASKS)
    .with_model(
        "unet_2d_condition",
        UNet2DConditionModel,
        keys=unet_2d_condition.TELLING,
        layouts=[spelled(unet.TELLING, cuts=unet.cuts, told=unet.told)],
        config=unet_2d_condition.config_from_shapes,
        asks=unet_2d_condition.ASKS,
    )
    .with_model(
        "controlnet",
        ControlNetModel,
        keys=controlnet.TELLING,
        layouts=[spelled(original_controlnet.TELLING, cuts=original_controlnet.cuts, told=original_controlnet.told)],
        config=controlnet.config_from_shapes,
        asks=controlnet.ASKS,
    )
    .with_model(
        "t2i_adapter",
        T2IAdapter,
        keys=t2i_adapter.TELLING,
        config=t2i_adapter.config_from_shapes,
        asks=t2i_adapter.ASKS,
    )
    .with_model("ip_adapter", IPAdapter, keys=ip_adapter.TELLING, config=ip_adapter.config_from_shapes)
    .with_model(
        "autoencoder_kl",
        AutoencoderKL,
        keys=autoencoder_kl.TELLING,
        layouts=[spelled(vae.TELLING, cuts=vae.cuts, told=vae.told)],
        config=autoencoder_kl.config_from_shapes,
        asks=autoencoder_kl.ASKS,
    )
    .with_model(
        "autoencoder_tiny",
        AutoencoderTiny,
        keys=autoencoder_tiny.TELLING,
        config=autoencoder_tiny.config_from_shapes,
        asks=autoencoder_tiny.ASKS,
    )
    .with_model(
        "clip_text_model",
        CLIPTextModel,
        layouts=[
            spelled(clip_text.TELLING, told=clip.told, below=clip.OF_LDM),
            spelled(clip_text.TELLING, below=clip.NOT_OF_LDM, lacks=[clip_text.PROJECTION]),
            spelled(
                clip.OPEN_TELLING,
                cuts=clip.cuts_of_2,
                told=clip.told_by_open,
                left_out=clip.left_out_of_2,
                below=clip.OF_2,
            ),
        ],
        config=clip_text.config_from_shapes,
        asks=clip_text.ASKS,
        ignores=clip_text.IGNORES,
    )
    .with_model(
        "clip_text_model_with_projection",
        CLIPTextModelWithProjection,
        layouts=[
            spelled((*clip_text.TELLING, clip_text.PROJECTION), below=clip.NOT_OF_LDM),
            spelled(
                clip.OPEN_TELLING,
                cuts=clip.cuts,
                told=clip.told_by_open,
                left_out=clip.left_out,
                below=clip.NOT_OF_2,
            ),
        ],
        config=clip_text.config_from_shapes,
        asks=clip_text.ASKS,
        ignores=clip_text.IGNORES,
    )
    .with_model(
        "word_text_encoder",
        WordTextEncoder,
        keys=word_text_encoder.TELLING,
        config=word_text_encoder.config_from_shapes,
        asks=word_text_encoder.ASKS,
    )
    .with_model(
        "mini_transformer",
        MiniTransformer2DModel,
        keys=mini_transformer.TELLING,
        config=mini_transformer.config_from_shapes,
        asks=mini_transformer.ASKS,
    )
    .with_model(
        "mini_autoencoder",
        MiniAutoencoderKL,
        keys=mini_autoencoder.TELLING,
        config=mini_autoencoder.config_from_shapes,
        asks=mini_autoencoder.ASKS,
    )
    .with_model(
        "qwen_image_transformer",
        QwenImageTransformer2DModel,
        layouts=[spelled(qwen_image.TELLING, told=original_qwen_image.told, lacks=["controlnet_x_embedder.weight"])],
        config=qwen_image.config_from_shapes,
        asks=qwen_image.ASKS,
        ignores=[original_qwen_image.ZERO_TIME],
    )
    .with_model(
        "qwen_image_controlnet",
        QwenImageControlNetModel,
        keys=qwen_image.CONTROLNET_TELLING,
        config=qwen_image.controlnet_config_from_shapes,
        asks=qwen_image.CONTROLNET_ASKS,
    )
    .with_model(
        "qwen_image_blockwise_controlnet",
        QwenImageBlockwiseControlNetModel,
        keys=qwen_image_blockwise_controlnet.TELLING,
        config=qwen_image_blockwise_controlnet.config_from_shapes,
    )
    .with_model(
        "qwen_image_image2lora",
        QwenImageImage2LoRAModel,
        keys=qwen_image_image2lora.TELLING,
        config=qwen_image_image2lora.config_from_shapes,
    )
    .with_model(
        "autoencoder_kl_qwen_image",
        AutoencoderKLQwenImage,
        keys=autoencoder_kl_qwen_image.TELLING,
        layouts=[spelled(wan_vae.TELLING, cuts=wan_vae.cuts, told=wan_vae.told)],
        config=autoencoder_kl_qwen_image.config_from_shapes,
        asks=autoencoder_kl_qwen_image.ASKS,
    )
)
"""Every network of calotype."""
