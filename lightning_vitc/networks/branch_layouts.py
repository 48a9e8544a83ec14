"""What the weights of the kinds of branches are called under timm's names, and their axes, written once."""

from collections.abc import Iterator, Mapping

from lightning_vitc.networks.axes import Axis, Inner, Stretch, Tiled, linear, norm

Named = Iterator[tuple[str, tuple[Axis, ...]]]
# by the kind of a branch the layer by which it adds to the stream: its columns are the branch's pieces
OUTLETS: Mapping[str, str] = {
    "attention": "attn.proj", "mixer": "conv2", "mlp": "mlp.fc2", "glu": "mlp.fc2", "basic": "conv2",
    "inverted": "conv_pwl", "separable": "conv_pw",
}  # fmt: skip
LAST_NORMS: Mapping[str, str] = {"basic": "bn2", "inverted": "bn3", "separable": "bn2"}  # of those that end in one


def attention_layout(
    number: int, position: int, width: Axis, *, qkv_bias: bool = True, qk_norm: bool = False, proj_bias: bool = True,
    key_bias: bool = True, split: bool = False, norm_bias: bool = True, inner_norm: bool = False,
) -> Named:  # fmt: skip
    """An attention `attn` as the branch `position` of block `number`.

    Args:
        number, position: of the branch.
        width: the axis of its stream.
        qkv_bias, proj_bias: whether the projections have one.
        qk_norm: of queries and keys.
        key_bias: whether keys have a bias where queries and values do; without, theirs are `q_bias` and `v_bias`.
        split: three projections instead of a packed one.
        norm_bias: whether norms have one.
        inner_norm: of the values, before the output projection.
    """
    qkv, values, queries = (Inner(number, position, what) for what in ("qkv", "values", "queries"))
    if split:
        yield from linear("attn.q_proj", Stretch(qkv, 0), width, qkv_bias)
        yield from linear("attn.k_proj", Stretch(qkv, 1), width, qkv_bias and key_bias)
        yield from linear("attn.v_proj", values, width, qkv_bias)
    else:
        yield from linear("attn.qkv", qkv, width, qkv_bias and key_bias)
        if qkv_bias and not key_bias:
            yield from (("attn.q_bias", (Stretch(qkv, 0),)), ("attn.v_bias", (values,)))
    for name in ("attn.q_norm", "attn.k_norm") if qk_norm else ():
        yield from norm(name, queries, norm_bias)
    if inner_norm:
        yield from norm("attn.norm", values, norm_bias)
    yield from linear("attn.proj", width, values, proj_bias)


def mlp_layout(
    number: int, position: int, width: Axis, *, bias: bool = True, kind: str = "mlp", split: bool = False,
    inner_norm: bool = False, norm_bias: bool = True,
) -> Named:  # fmt: skip
    """An MLP `mlp`, or a gated one (`kind` is `glu`): `split` into two first layers, or one of gates, then values."""
    hidden = Inner(number, position, "pieces")
    if kind == "glu" and split:
        yield from linear("mlp.fc1_g", hidden, width, bias)
        yield from linear("mlp.fc1_x", hidden, width, bias)
    else:
        yield from linear("mlp.fc1", Tiled(hidden, outer=2) if kind == "glu" else hidden, width, bias)
    if inner_norm:
        yield from norm("mlp.norm", hidden, norm_bias)
    yield from linear("mlp.fc2", width, hidden, bias)
