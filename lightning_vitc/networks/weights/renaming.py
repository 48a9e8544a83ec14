"""Weights under other names: a format is a list of names and of what they are here."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Step = Callable[[Weights], Weights]
X = r"(?P<x>weight|bias)"  # how a layer's names end
PARTS = "qkv"


@dataclass(frozen=True)
class Format:
    """How another library, or the authors of a network, name its weights.

    Attributes:
        name: for messages.
        rules: regular expressions of whole names, and what `re.Match.expand` makes of them; `None` for what no network
            here has.
        steps: what is done with the renamed weights, one after another.
        mark: a regular expression that one of the names must match, where the rules would take other files too.
        models: patterns of names of the models that such files are of.
    """

    name: str
    rules: Mapping[str, str | None]
    steps: tuple[Step, ...] = ()
    mark: str = ""
    models: tuple[str, ...] = ()

    def convert(self, weights: Weights) -> Weights | None:
        """The weights under the names of the network; `None` where one of theirs is none of this format's.

        Raises:
            RuntimeError, IndexError, ValueError: of torch, where they have not the shapes that they should have.
        """
        if self.mark and not any(re.fullmatch(self.mark, name) for name in weights):
            return None
        found: Weights = {}
        for name, value in weights.items():
            rule = next((match for pattern in self.rules if (match := re.fullmatch(pattern, name))), None)
            if rule is None:
                return None
            target = self.rules[rule.re.pattern]
            if target is not None:
                if (renamed := rule.expand(target)) in found:
                    return None
                found[renamed] = value
        for step in self.steps:
            found = step(found)
        return found


def layered(before: str, after: str, names: Mapping[str, str]) -> dict[str, str | None]:
    """Rules for the layers of a block, each with a weight and a bias.

    Args:
        before, after: what the block's names begin with, there (a regular expression) and here.
        names: of its layers, there (a regular expression) and here.
    """
    return {rf"{before}{theirs}\.{X}": rf"{after}{ours}.\g<x>" for theirs, ours in names.items()}


def packed(weights: Weights) -> Weights:
    """Queries, keys and values in one, timm's `qkv`; where keys have no bias, those of the others by themselves."""
    found = dict(weights)
    for name in weights:
        if not (match := re.fullmatch(r"(.*\battn)\.q\.(weight|bias)", name)):
            continue
        attn, kind = match.groups()
        query, key, value = (found.get(f"{attn}.{part}.{kind}") for part in PARTS)
        if query is None or value is None or (key is None and kind == "weight"):
            continue
        for part in PARTS:
            found.pop(f"{attn}.{part}.{kind}", None)
        if key is None:
            found |= {f"{attn}.q_bias": query, f"{attn}.v_bias": value}
        else:
            found[f"{attn}.qkv.{kind}"] = torch.cat([query, key, value])
    return found


def after_the_merge(weights: Weights) -> Weights:
    """Swin's stages with the merge that others put at the end of the one before."""
    return {
        re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name): value
        for name, value in weights.items()
    }
