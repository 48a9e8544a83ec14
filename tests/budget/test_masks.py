"""Minima of what is kept."""

import pytest

from lightning_vitc.budget.masks import check_minima
from lightning_vitc.errors import UserError
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block
from lightning_vitc.schema import MinKeepConfig

ALL = {"heads": 2, "dims": 3, "channels": 5, "blocks": 4}
SPEC = vit("small", (8, 8), (4, 4), 1, 10, 6, [vit_block(attention(3, (3, 3)), 5)] * 4, 1.0)


@pytest.mark.parametrize("key", ALL)
def test_all_there_is_may_be_kept_and_no_more(key: str) -> None:
    check_minima(MinKeepConfig(**ALL), SPEC)
    with pytest.raises(UserError, match=rf"^budget.min_keep.{key}: {ALL[key] + 1} is more than the {ALL[key]} that"):
        check_minima(MinKeepConfig(**ALL | {key: ALL[key] + 1}), SPEC)
