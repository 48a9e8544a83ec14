"""Pooling by the attention of one learned query, timm's with an MLP of any width."""

from timm.layers import AttentionPoolLatent, Mlp, get_act_layer

from lightning_vitc.networks.modules.norms import Norm


def pool_of(width: int, heads: int, hidden: int, act: str, norm: Norm) -> AttentionPoolLatent:
    """Tokens [B, N, D] -> [B, D].

    Args:
        width: D.
        heads: of the attention.
        hidden: of the MLP.
        act: of the MLP, a name that timm knows.
        norm: before the MLP.
    """
    pool = AttentionPoolLatent(width, num_heads=heads, mlp_ratio=1, norm_layer=norm)  # type: ignore[arg-type]
    pool.mlp = Mlp(width, hidden, width, act_layer=get_act_layer(act))  # type: ignore[arg-type]
    return pool
