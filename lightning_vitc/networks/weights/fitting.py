"""A file of weights into a network that may see other images or know other classes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from timm.models import adapt_input_conv
from torch import Tensor, nn

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.weights.files import read_weights
from lightning_vitc.networks.weights.formats import recognized
from lightning_vitc.networks.weights.kinds import must_be_of_its_kind
from lightning_vitc.networks.weights.renaming import Weights
from lightning_vitc.networks.weights.resampling import resampled
from lightning_vitc.networks.weights.settings import must_say_the_same, settings_beside
from lightning_vitc.networks.weights.siblings import sibling
from lightning_vitc.networks.weights.strict import load_strictly, must_be_finite, must_have_its_names

SHOWN = 4  # names in a message


def load_pretrained(
    model: nn.Module, path: str, *, new_head: bool = False, antialias: bool = True,
    remedy: str = "; set model.new_head=true for a new one", key: str = "model.name",
) -> None:  # fmt: skip
    """Load a file into a model of timm or of this library, whoever named its weights.

    Position embeddings of another grid and tables of biases of other windows are resampled, and the first convolution
    is adapted to other input channels, as timm does; any precision becomes the model's.

    Args:
        model: with newly drawn weights.
        path: of the file, or of the folder that it is in.
        new_head: keep the model's own classifier, whatever the file has.
        antialias: of the resampling, timm's default.
        remedy: what messages about classifiers end with.
        key: of the experiment, that names the model.

    Raises:
        UserError: where a weight has no place, or a place no weight; the model is left as it is.
    """
    format, weights = recognized(read_weights(path), model, path)
    source = path if format is None else f"{path} ({format.name})"
    own = model.state_dict()
    with _naming_another(weights, model, () if format is None else format.models, key):
        _must_share_names(weights, own, source)
        _must_be_of_its_size(weights, own, source, key)
    given = _with_classifier(weights, model, source, new_head, remedy)
    with _naming_another(weights, model, () if format is None else format.models, key):
        must_be_of_its_kind(given, own, source, key)
        must_have_its_names(own, given, source)
    must_say_the_same(settings_beside(path), model, source)
    given = _for_channels(given, model, source)
    given = resampled(given, model, source, antialias)
    must_be_finite(given, source)
    load_strictly(model, given, source)


@contextmanager
def _naming_another(weights: Weights, model: Any, patterns: tuple[str, ...], key: str) -> Iterator[None]:
    """What is refused inside is said to be of the model that it is of, where there is one."""
    try:
        yield
    except UserError as error:
        name = sibling(weights, patterns)
        if name is None or name == getattr(getattr(model, "spec", None), "name", None):
            raise
        raise UserError(f"{error}; it is of {name}: set {key} to it") from None


def _must_share_names(weights: Weights, own: Weights, source: str) -> None:
    if weights.keys() & own.keys():
        return
    starts = sorted({name.partition(".")[0] for name in weights})
    more = ", ..." if len(starts) > SHOWN else ""
    inside = [start for start in starts if own.keys() <= {name.removeprefix(f"{start}.") for name in weights}]
    remedy = f"; those under {' and under '.join(inside)} fit: save them alone" if inside else ""
    raise UserError(
        f"{source}: not a checkpoint of this model: its names begin with {', '.join(starts[:SHOWN])}{more}{remedy}"
    )


def _with_classifier(weights: Weights, model: Any, source: str, new_head: bool, remedy: str) -> Weights:
    own = model.state_dict()
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    heads += ("head_dist.", "head_cls.") if "head." in heads else ()
    mine = {name: value for name, value in own.items() if name.startswith(heads)}
    if new_head:
        return {name: value for name, value in weights.items() if not name.startswith(heads)} | mine
    if {name for name in weights if not name.startswith(heads)} != own.keys() - mine.keys():
        return weights  # of another model, whose classifier is not what is wrong
    for name, value in mine.items():
        if not name.endswith("weight"):
            continue
        if not any(theirs.startswith(heads) for theirs in weights):
            raise UserError(f"{source}: it has no classifier{remedy}")
        if name in weights and weights[name].ndim == value.ndim and len(weights[name]) != len(value):
            classes = counted(len(weights[name]), "class")
            raise UserError(f"{source}: its classifier is for {classes}, the model's for {len(value)}{remedy}")
    return weights


def _for_channels(weights: Weights, model: Any, source: str) -> Weights:
    first = getattr(model, "first_conv", (getattr(model, "pretrained_cfg", None) or {}).get("first_conv"))
    first = first or "patch_embed.proj"
    own, given = (values.get(f"{first}.weight") for values in (model.state_dict(), weights))
    if own is None or given is None or given.ndim != 4 or own.shape[1] == given.shape[1]:
        return weights
    if given.shape[1] != 3:
        raise UserError(
            f"{source}: not a checkpoint of this model: {first} sees {counted(given.shape[1], 'channel')}, and only "
            f"those of RGB are adapted to others; set model.in_chans={given.shape[1]}"
        )
    return weights | {f"{first}.weight": adapt_input_conv(own.shape[1], given)}


def _must_be_of_its_size(weights: Weights, own: dict[str, Tensor], source: str, name: str) -> None:
    """Refuse another architecture by the key of `model` that it differs in."""
    depth, mine = (_depth(names) for names in (weights, own))
    found: list[tuple[str, int, int]] = [("depth", depth, mine)] if depth and mine else []
    kernel, here = (values.get("patch_embed.proj.weight") for values in (weights, own))
    if kernel is not None and here is not None and kernel.ndim == here.ndim == 4:
        found = [("embed_dim", len(kernel), len(here)), ("patch_size", kernel.shape[-1], here.shape[-1]), *found]
    for key, theirs, ours in found:
        if theirs != ours:
            remedy = f"model.{key}={theirs}, or model.name" if name == "model.name" else name
            raise UserError(
                f"{source}: not a checkpoint of this model: its {key} is {theirs}, the model's is {ours}; "
                f"set {remedy} to the model it is of"
            )


def _depth(names: Any) -> int:
    return len({name.split(".")[1] for name in names if name.startswith("blocks.")})
