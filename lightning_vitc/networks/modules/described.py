"""A timm model that says what it is."""

from typing import Any

from lightning_vitc.networks.modules.notes import renew_notes
from lightning_vitc.networks.spec import ArchSpec


class Described:
    """A timm model that says what it is, whatever timm's methods make of it.

    Attributes:
        spec: the architecture.
    """

    spec: ArchSpec

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's."""
        super().set_input_size(*args, **kwargs)  # type: ignore[misc]
        self.spec = ArchSpec.of(self)
        renew_notes(self)

    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        """timm's."""
        super().reset_classifier(*args, **kwargs)  # type: ignore[misc]
        self.spec = ArchSpec.of(self)
        renew_notes(self)


class Movable(Described):
    """One whose blocks hold tables or masks for a grid of patches: to other images it is moved by our own blocks."""

    patch_embed: Any

    def move(self) -> None:
        """Let the blocks attend in the grid of `spec`."""
        raise NotImplementedError

    def set_input_size(self, img_size: tuple[int, int] | None = None, **kwargs: Any) -> None:
        """timm's, of images alone.

        Raises:
            TypeError: for other arguments of timm's method.
        """
        if kwargs:
            raise TypeError(f"set_input_size: {', '.join(kwargs)} cannot be changed; give img_size alone")
        if img_size is not None:
            self.spec = self.spec.with_img_size(img_size)
            self.patch_embed.set_input_size(img_size=img_size)
            self.move()
            renew_notes(self)
