"""What a network with an auxiliary classifier gives in training."""

from typing import NamedTuple

from torch import Tensor


class TwoLogits(NamedTuple):
    """Each [B, classes]; both learn the same, and the loss is the mean of theirs.

    Attributes:
        predicting: of the classifier that is evaluated.
        auxiliary: of one that is left out of evaluation.
    """

    predicting: Tensor
    auxiliary: Tensor
