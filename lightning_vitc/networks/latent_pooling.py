"""Pooling of tokens by the attention of one learned query (MAP; SigLIP, PE): what it costs and what its weights are.

It stands behind the blocks, has no branch of the stream, and is never pruned; of a narrower network it is narrower too,
with as many heads.
"""

from collections.abc import Iterator

from lightning_vitc.networks.axes import Axis, Tiled, linear, norm

HIDDEN = "pool"  # the axis of the hidden units of its MLP


def pool_macs(width: int, positions: int, hidden: int) -> int:
    """Of the query, of keys and values, of the attention of the query, of the output projection and of the MLP."""
    return (2 + 2 * positions) * width * width + 2 * positions * width + 2 * width * hidden


def pool_params(width: int, hidden: int, norm_bias: bool = True) -> int:
    """Of the query itself, its projection, keys and values, the output projection, the norm and the MLP."""
    return width + 4 * width * (width + 1) + (1 + norm_bias) * width + 2 * width * hidden + hidden + width


def pool_layout(width: str, norm_bias: bool = True) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    """Names and axes, as timm's `attn_pool`."""
    yield "attn_pool.latent", (None, None, width)
    yield from linear("attn_pool.q", width, width)
    yield from linear("attn_pool.kv", Tiled(width, outer=2), width)
    yield from linear("attn_pool.proj", width, width)
    yield from norm("attn_pool.norm", width, norm_bias)
    yield from linear("attn_pool.mlp.fc1", HIDDEN, width)
    yield from linear("attn_pool.mlp.fc2", width, HIDDEN)
