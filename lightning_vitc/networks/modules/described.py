"""A timm model that says what it is."""

from typing import Any

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

    def reset_classifier(self, *args: Any, **kwargs: Any) -> None:
        """timm's."""
        super().reset_classifier(*args, **kwargs)  # type: ignore[misc]
        self.spec = ArchSpec.of(self)
