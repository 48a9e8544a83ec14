"""Models by their names: timm's, and those of families that timm lacks, which are registered with it."""

import inspect
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from lightning_vitc.errors import UserError
from lightning_vitc.errors.suggest import did_you_mean
from lightning_vitc.files.paths import LOCAL
from lightning_vitc.networks import families
from lightning_vitc.networks.modules.activations import set_act
from lightning_vitc.networks.modules.norms import set_eps
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.schema import SOURCES, ModelConfig

RATES = ("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")
CONVOLUTIONAL = ("timm.models.resnet", "timm.models.efficientnet")
NOT_TIMMS = ("img_size", "depths", "embed_dim")  # keys of `model` that timm does not take for those
CHANGED: dict[str, tuple[Callable[[nn.Module, Any], int], str]] = {  # keys that change a model that timm has built
    "norm_eps": (set_eps, "LayerNorm"),
    "act_layer": (set_act, "MLP"),
}
default_cfgs: dict[str, Any] = {}  # where timm looks for them


def create_supported(name: str, **timm_kwargs: Any) -> nn.Module:
    """A model to be described by an `ArchSpec`: `create_timm`, except that an unsupported one is refused as such."""
    try:
        return create_timm(name, **timm_kwargs)
    except UserError:
        if is_model(name) and not is_own(name):
            with torch.device("meta"):
                ArchSpec.of(timm.create_model(name))  # raises, whatever its arguments were to be
        raise


def create_timm(name: str, *, section: str = "model", **timm_kwargs: Any) -> nn.Module:
    """timm's `create_model` with errors for users.

    Args:
        name: of the model.
        section: of the experiment that names it: `model`, or `teacher`, which may be any model.
        timm_kwargs: passed to timm.

    Raises:
        UserError: for a name that is unknown, arguments that the model does not take, or a hub out of reach.
    """
    key = "teacher.model" if section == "teacher" else "model.name"
    if not is_model(name) and not name.startswith(SOURCES):
        raise UserError(f"{key}: unknown timm model {name!r}{_known_names_like(name, section)}")
    changes = {} if is_own(name) else {key: timm_kwargs.pop(key, None) for key in CHANGED}
    if name.startswith(LOCAL) and changes["norm_eps"] is None:
        changes["norm_eps"] = _epsilon_in(Path(name.removeprefix(LOCAL)))
    ours = {key: timm_kwargs.pop(key) for key in NOT_TIMMS if key in timm_kwargs} if _is_convolutional(name) else {}
    try:
        model = timm.create_model(name, **timm_kwargs)
        for changed, value in changes.items():
            change, what = CHANGED[changed]
            if value is not None and not change(model, value):
                raise UserError(f"model.{changed}: {name} has no {what}; leave it out")
        return _of_keys(model, ours, bool(timm_kwargs.get("pretrained"))) if ours else model
    except UserError:
        raise
    except (TypeError, AssertionError, LookupError, RuntimeError, ValueError) as error:  # too few heads for its stages
        raise UserError(f"{section}: timm cannot build {name} with these arguments: {_first_line(error)}") from None
    except Exception as error:  # the hub's client has errors of its own, and keeps no file that it has half
        if not (timm_kwargs.get("pretrained") or isinstance(error, OSError)):
            raise
        if name.startswith(LOCAL):
            raise UserError(
                f"{key}: {name} cannot be read ({_first_line(error)}); it names a folder with config.json and weights, "
                "such as the timm/ of 'vitc export --formats timm'"
            ) from None
        raise UserError(
            f"{section}.pretrained: the weights of {name} cannot be fetched ({_first_line(error)}); "
            "try again, or give the path of a file instead"
        ) from None


def _known_names_like(name: str, section: str) -> str:
    """The nearest, of a model among the families' that can be built; else, which these are."""
    known = known_names()
    if section == "teacher":
        return did_you_mean(name, known, count=3)
    stems = {_stem(model) for models in families.examples().values() for model in models}
    ours = [model for model in known if is_own(model) or _stem(model) in stems]
    whole = [model for model in ours if model.startswith(name)]  # of a name that is cut off
    hint = did_you_mean(name, whole, count=3, cutoff=0) if whole else did_you_mean(name, ours, count=3)
    return hint or f"; the families, with models of them: {families.supported()}"


def _stem(model: str) -> str:
    """`deit` of `deit3_small_patch16_224`."""
    return model.partition("_")[0].rstrip("0123456789")


def is_model(name: str) -> bool:
    """Whether timm knows a model, or a family does."""
    return timm.is_model(name) or is_own(name)


def is_own(name: str) -> bool:
    """Whether timm lacks the model, and a family has it."""
    return name.partition(".")[0] in _registered()


def known_names() -> list[str]:
    """Of all models."""
    _registered()
    return timm.list_models()


@cache
def _registered() -> frozenset[str]:
    """The families' names, after timm has been told of them."""
    found: dict[str, Callable[..., nn.Module]] = {}
    for family, named in families.each_named():
        for name, spec_of in named.NAMES.items():
            default_cfgs.update(generate_default_cfgs({name: dict(named.PREPARATION)}))
            found[name] = register_model(_entry(family, name, spec_of))
    return frozenset(found)


def _entry(family: str, name: str, spec_of: Callable[..., ArchSpec]) -> Callable[..., nn.Module]:
    """What timm calls to build a model."""

    def create(pretrained: bool = False, **keys: Any) -> nn.Module:
        keys.pop("cache_dir")
        if pretrained:
            raise UserError(f"model.pretrained: nobody offers the weights of {name} by its name; give a file of them")
        return build_model_with_cfg(partial(_built, family, spec_of), name, False, **keys)

    create.__name__, create.__module__ = name, __name__
    return create


def _built(family: str, spec_of: Callable[..., ArchSpec], **keys: Any) -> nn.Module:
    rates = {key: keys.pop(key) for key in RATES if key in keys}
    taken = inspect.signature(spec_of).parameters
    for key in keys:
        if key not in taken:
            known = ", ".join(name for name in taken if name in ModelConfig.__dataclass_fields__)
            raise UserError(f"model.{key}: this model does not take it; it takes {known}")
    half = families.network(family)
    model = half.build(spec_of(**keys), rates)
    if torch.get_default_device().type != "meta":
        half.initialize(model)
    return model


def _is_convolutional(name: str) -> bool:
    known = not is_own(name) and timm.is_model(name)
    return known and timm.model_entrypoint(name.partition(".")[0]).__module__ in CONVOLUTIONAL


def _of_keys(model: nn.Module, keys: dict[str, Any], pretrained: bool) -> nn.Module:
    """A network of convolutions for images of another size, or with other stages.

    Raises:
        UserError: for a key that its family does not take, or weights that are for other stages.
    """
    if (size := keys.pop("img_size", None)) is not None:
        model.img_size = size
    if not keys:
        return model
    spec = ArchSpec.of(model)
    of_keys = families.shape(spec.family).of_keys
    if missing := [key for key in keys if key not in inspect.signature(of_keys).parameters]:
        raise UserError(f"model.{missing[0]}: {spec.name} does not take it; its widths are in its name")
    if pretrained:
        raise UserError(f"model.{next(iter(keys))}: the weights of {spec.name} are for its own; leave the key out")
    family, preset = families.network(spec.family), model.pretrained_cfg
    model = family.build(of_keys(spec, **keys), {})
    model.pretrained_cfg = preset
    if not next(model.parameters()).is_meta:
        family.initialize(model)
    return model


def _epsilon_in(folder: Path) -> float | None:
    """What `config.json` of an export for timm says of it, where no model of timm has it."""
    try:
        eps = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("norm_eps")
    except (OSError, ValueError, AttributeError):  # timm says it better
        return None
    return eps if isinstance(eps, float) and eps > 0 else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
