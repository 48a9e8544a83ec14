"""Which candidates there are: attentions, whole blocks, pairs of them."""

import pytest

from lightning_vitc.errors import UserError
from lightning_vitc.few_shot.units import chosen_candidates, members, unit_of
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.mobilenet.shape import mobilenet
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.networks.families.swin.shape import swin

SWIN_B = swin("swin_base", 128, (2, 2, 18, 2), (4, 8, 16, 32))
VIT = vit("vit", (8, 8), (4, 4), 1, 10, 4, [vit_block(attention(2, (2, 2)), 4)] * 7, 1.0)
RESNET, MOBILENET = resnet("resnet34", (3, 4, 6, 3)), mobilenet()


@pytest.mark.parametrize(
    ("spec", "unit", "blocks"),
    [
        (VIT, "attention", [1, 2, 3, 4, 5]),
        (VIT, "pair", [2]),  # 0 and 1, 2 and 3, 4 and 5; the seventh block is in none
        (SWIN_B, "block", [*range(5, 21)]),
        (SWIN_B, "pair", [6, 8, 10, 12, 14, 16, 18]),  # a window and a shifted one each
        (RESNET, "block", [1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15]),  # layer1.1, layer1.2, layer2.1, ...
        (RESNET, "pair", [1, 4, 8, 10, 14]),
        (MOBILENET, "block", [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]),  # torchvision's features 3, 5, 6, 8, ...
    ],
)
def test_candidates_without_a_choice(spec, unit, blocks):
    assert chosen_candidates(None, spec, unit) == blocks


def test_the_unit_of_a_network():
    assert [unit_of(None, spec) for spec in (VIT, SWIN_B, RESNET)] == ["attention", "attention", "block"]
    assert unit_of("pair", RESNET) == "pair"
    with pytest.raises(UserError, match=r"^method\.unit: attention; the blocks of resnet34 have none; use block, or"):
        unit_of("attention", RESNET)
    assert (members("block", 5), members("pair", 5)) == ((5,), (5, 6))


@pytest.mark.parametrize(
    ("spec", "unit", "asked", "said"),
    [
        (SWIN_B, "pair", [23], "there is no block 24; the network has 0 to 23"),
        (SWIN_B, "pair", [3], "blocks 3 and 4 are no pair, but of two stages"),
        (SWIN_B, "pair", [6, 7], "the pairs of blocks 6 and 7 share one; leave one out"),
        (swin("swin", 96, (2, 2, 4, 2), (3, 6, 12, 24)), "pair", None,
         "2 pairs of blocks have none between the first and the last; name some"),
        (RESNET, "block", [3], "block 3 changes the stream; nothing can be in its place"),
        (MOBILENET, "block", [0], "block 0 changes the stream; nothing can be in its place"),
        (RESNET, "block", [], "empty; name at least one block, or leave the key out"),
    ],
)  # fmt: skip
def test_what_is_no_candidate(spec, unit, asked, said):
    with pytest.raises(UserError) as caught:
        chosen_candidates(asked, spec, unit)
    assert str(caught.value) == f"method.candidates: {said}"
