"""What the weights of the kinds of branches are called under timm's names, and their axes, written once."""

from collections.abc import Iterator

from lightning_vitc.networks.axes import Axis, Inner, linear, norm

Named = Iterator[tuple[str, tuple[Axis, ...]]]


def attention_layout(
    number: int, position: int, width: Axis, *, qkv_bias: bool = True, qk_norm: bool = False, proj_bias: bool = True
) -> Named:
    """A packed attention `attn` as the branch `position` of block `number`."""
    qkv, values, queries = (Inner(number, position, what) for what in ("qkv", "values", "queries"))
    yield from linear("attn.qkv", qkv, width, qkv_bias)
    for name in ("attn.q_norm", "attn.k_norm") if qk_norm else ():
        yield from norm(name, queries)
    yield from linear("attn.proj", width, values, proj_bias)


def mlp_layout(number: int, position: int, width: Axis, *, bias: bool = True) -> Named:
    """An MLP `mlp`."""
    hidden = Inner(number, position, "pieces")
    yield from linear("mlp.fc1", hidden, width, bias)
    yield from linear("mlp.fc2", width, hidden, bias)
