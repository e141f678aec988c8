"""What older files of this network have that is spelled, or meant, differently today."""

RENAMES: tuple[tuple[str, str], ...] = ()
"""Keys of weights, as `(pattern, replacement)` pairs. The published files have today's."""

AVERAGE_REMARKS = frozenset(
    {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
)
"""Fields of a `config.json` that tell how a moving average of the weights was made, not what the network is."""
