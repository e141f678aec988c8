"""The blocks of a `UNet2DConditionModel`, of the widths and with the attention that its config says."""

from torch import nn

from calotype.models.unet_2d_condition.config import UNet2DConditionConfig
from calotype.nn.unet_blocks import BlockSettings, LevelAttention, TextDownBlock, TextMidBlock, TextUpBlock


def blocks(config: UNet2DConditionConfig) -> tuple[nn.ModuleList, TextMidBlock | None, nn.ModuleList]:
    """The way down, the middle and the way up."""
    settings = BlockSettings(
        config.time_channels,
        norm_groups=config.norm_num_groups,
        eps=config.norm_eps,
        act=config.act_fn,
        dropout=config.dropout,
        time_scale_shift=config.resnet_time_scale_shift == "scale_shift",
        linear_projection=config.use_linear_projection,
        downsample_padding=config.downsample_padding,
    )
    widths, last = config.block_out_channels, config.levels - 1
    heads, text = config.per_level(config.attention_head_dim), config.per_level(config.cross_attention_dim)
    only, counts = config.per_level(config.only_cross_attention), config.per_level(config.layers_per_block)

    def attention(level: int, kind: str, depths: tuple[int, ...]) -> LevelAttention | None:
        return LevelAttention(heads[level], text[level], depths, only[level]) if kind.startswith("CrossAttn") else None

    down = nn.ModuleList(
        TextDownBlock(
            settings,
            widths[max(level - 1, 0)],
            widths[level],
            count=counts[level],
            attention=attention(level, kind, config.down_depths(level)),
            last=level == last,
        )
        for level, kind in enumerate(config.down_block_types)
    )
    up = nn.ModuleList(
        TextUpBlock(
            settings,
            _up_widths(counts[level] + 1, widths[min(level + 1, last)], widths[level], widths[max(level - 1, 0)]),
            widths[level],
            attention=attention(level, kind, config.up_depths(level)),
            last=level == 0,
        )
        for level, kind in zip(range(last, -1, -1), config.up_block_types, strict=True)
    )
    mid = None
    if config.mid_block_type is not None:
        middle = LevelAttention(heads[last], text[last], config.down_depths(last)[:1])
        attends = config.mid_block_type == "UNetMidBlock2DCrossAttn"
        mid = TextMidBlock(
            settings, widths[-1], attention=middle if attends else None, output_scale=config.mid_block_scale_factor
        )
    return down, mid, up


def _up_widths(count: int, below: int, width: int, above: int) -> list[tuple[int, int]]:
    """The two input widths of each residual block: of what comes from below and of the map from the way down."""
    return list(zip([below, *[width] * (count - 1)], [*[width] * (count - 1), above], strict=True))
