"""A file of another kind of network is refused by the key of `model` that the two differ in."""

from collections.abc import Mapping

from torch import Tensor

from lightning_vitc.errors import UserError

FIRST_UNIT, LAST_UNIT = "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"


def must_be_of_its_kind(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, key: str = "model.name"
) -> None:
    """Refuse weights of wider or narrower MLPs, with or without a distillation token, or of another pooling.

    Args:
        weights: of the file, under the names of the network.
        own: those of the network.
        source: where they come from, for messages.
        key: of the experiment, that names the network; only one of the section `model` has other keys beside it.

    Raises:
        UserError: with the key and the value that would be right.
    """
    refused = f"{source}: not a checkpoint of this model"
    theirs, ours = ("dist_token" in names for names in (weights, own))
    if theirs != ours and "cls_token" in weights and "cls_token" in own:
        kind, other = ("with", "without")[:: 1 if theirs else -1]
        raise UserError(f"{refused}: it is of a network {kind} a distillation token, and {key} is one {other}")
    for problem, remedy in filter(None, (_pooling(weights, own), _mlp_ratio(weights, own))):
        right = remedy if key == "model.name" else f"{key} to the model it is of"
        raise UserError(f"{refused}: {problem}; set {right}")


Found = tuple[str, str] | None  # what differs, and the key that says so with its right value


def _pooling(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Found:
    behind, before = "fc_norm.weight", "norm.weight"
    for there, here, pool in ((behind, before, "avg"), (before, behind, "token")):
        if there in weights and there not in own and here in own and here not in weights:
            return f"it has {there} and no {here}", f"model.global_pool={pool}"
    return None


def _mlp_ratio(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Found:
    theirs, ours, last = weights.get(FIRST_UNIT), own.get(FIRST_UNIT), own.get(LAST_UNIT)
    if theirs is None or ours is None or last is None or theirs.ndim != 2 or theirs.shape[1:] != ours.shape[1:]:
        return None
    if len(theirs) == len(ours) or len(ours) != last.shape[1]:  # of two halves, one gates the other
        return None
    found, width = len(theirs) / theirs.shape[1], len(ours) / ours.shape[1]
    return f"its mlp_ratio is {found:g}, the model's is {width:g}", f"model.mlp_ratio={found:g}"
