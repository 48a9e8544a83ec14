"""What an exported network says beside its spec: the names of its classes, and how an image becomes an input."""

from typing import Any

from lightning_vitc.images.preprocessing import transform_of


def renew_notes(model: Any) -> None:
    """Keep what still holds of a network whose spec has changed: no names of other classes, images of its size.

    Args:
        model: with `spec` and, where it was loaded from an export, `classes`, `preprocessing` and `transform`.
    """
    spec, how = model.spec, getattr(model, "preprocessing", None) or {}
    if len(getattr(model, "classes", None) or ()) != spec.num_classes:
        model.classes = None
    if "input_size" in how:
        model.preprocessing = how | {"input_size": [spec.in_chans, *spec.img_size]}
        model.transform = transform_of(model.preprocessing)
