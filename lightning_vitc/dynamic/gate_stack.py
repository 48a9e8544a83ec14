"""Many gates at once: the weights of all their candidates lie side by side, so that one product does for all of them.

U gates, one a branch of a network; K candidates each, C of them with hidden units; B images, D the embedding width,
h = D/4 the hidden width.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_vitc.dynamic.gate_places import ORDER, places_of, stacked_state
from lightning_vitc.networks.gates.networks import GateNetwork, RunningNorm
from lightning_vitc.networks.gates.shapes import GATES

Weights = dict[str, Tensor]


class GateStack(nn.Module):
    """Computes what the `GateNetwork`s it is made of would, mixed by shares of the candidates.

    Args:
        networks: K of every gate, in the same order; `unit` gives them back.
    """

    first_weight: nn.Parameter
    first_bias: nn.Parameter
    layer_weight: nn.Parameter
    layer_bias: nn.Parameter
    second_weight: nn.Parameter
    second_bias: nn.Parameter
    second_layer_weight: nn.Parameter
    second_layer_bias: nn.Parameter
    last_weight: nn.Parameter
    last_bias: nn.Parameter
    linear_weight: nn.Parameter
    batch: RunningNorm

    def __init__(self, networks: Sequence[Sequence[GateNetwork]]):
        super().__init__()
        self.names = tuple(network.name for network in networks[0])
        self.dim = networks[0][0].dim
        self.order = tuple(sorted(self.names, key=ORDER.index))
        self.hidden = sum(GATES[name].layers > 1 for name in self.names)
        if "relu_bn" in self.names:
            self.batch = RunningNorm(len(networks), 1, max(self.dim // 4, 1))
        states = [[network.state_dict() for network in row] for row in networks]
        for key, value in stacked_state(states, self.names).items():
            if not key.startswith("batch."):
                self.register_parameter(key, nn.Parameter(value))
            else:
                getattr(self.batch, key.removeprefix("batch.")).data.copy_(value)

    def unit(self, gate: int, candidate: int) -> GateNetwork:
        """A candidate of a gate as a network of its own."""
        name, own = self.names[candidate], self.state_dict()
        with torch.device("meta"):
            network = GateNetwork(name, self.dim)
        places = places_of(self.order)[name]
        weights = {key: own[group][gate, place].clone() for key, (group, place) in places.items()}
        network.load_state_dict(weights, assign=True)
        return network.requires_grad_()

    def mixed(self, shares: Tensor) -> Weights:
        """What `margins` computes with, [U, ...] each: batch norms folded into what they follow, candidates weighed.

        Args:
            shares: of the candidates, [U, K]; differentiable.
        """
        columns = dict(zip(self.names, shares.unbind(-1), strict=True))
        ordered = torch.stack([columns[name] for name in self.order], dim=-1)
        weights = {"last": self._last(ordered), "bias": (_margin(self.last_bias) * ordered).sum(-1)[:, None, None]}
        if self.hidden:
            first, bias = self._first()
            weights |= {"first": first.flatten(1, 2).mT, "first_bias": bias.flatten(1)[:, None]}
        if hasattr(self, "layer_weight"):
            weights |= {"layer": self.layer_weight[:, None], "layer_bias": self.layer_bias[:, None]}
        if hasattr(self, "second_weight"):
            weights |= {"second": self.second_weight.squeeze(1).mT, "second_bias": self.second_bias}
            weights |= {"second_layer": self.second_layer_weight, "second_layer_bias": self.second_layer_bias}
        return weights

    def _last(self, shares: Tensor) -> Tensor:
        """What the last layers, each by its share, make of all features, [U, C h + D, 1] with a linear gate."""
        of_hidden, of_linear = shares[..., None].split([self.hidden, len(self.order) - self.hidden], dim=1)
        parts = [_margin(self.last_weight) * of_hidden] if self.hidden else []
        parts += [_margin(self.linear_weight) * of_linear] if "linear" in self.names else []
        return torch.cat([part.flatten(1) for part in parts], dim=1)[..., None]

    def _first(self) -> tuple[Tensor, Tensor]:
        """Weights [U, C, h, D] and biases [U, C, h] of the first layers, with the batch norm that follows one."""
        if "relu_bn" not in self.names:
            return self.first_weight, self.first_bias
        place = self.order.index("relu_bn")
        parts = [place, 1, self.hidden - place - 1]
        scale, shift = self.batch.affine()
        before, own, after = self.first_weight.split(parts, dim=1)
        weight = torch.cat([before, own * scale[..., None], after], dim=1)
        before, own, after = self.first_bias.split(parts, dim=1)
        return weight, torch.cat([before, torch.addcmul(shift, own, scale), after], dim=1)

    def margins(self, weights: Mapping[str, Tensor], pooled: Tensor) -> Tensor:
        """By how much the logit of running is the larger one, [V, B].

        Args:
            weights: of `mixed`, or of V of its gates.
            pooled: mean tokens, [V, B, D].
        """
        features = self._activations(weights, pooled) if self.hidden else []
        if "linear" in self.names:
            features.append(pooled)
        return torch.baddbmm(weights["bias"], torch.cat(features, dim=-1), weights["last"]).squeeze(-1)

    def _activations(self, weights: Mapping[str, Tensor], pooled: Tensor) -> list[Tensor]:
        shapes = [GATES[name] for name in self.order[: self.hidden]]
        size = max(self.dim // 4, 1)
        x = torch.baddbmm(weights["first_bias"], pooled, weights["first"])  # [V, B, C h]
        if normed := [number for number, shape in enumerate(shapes) if shape.norm == "layer"]:
            widths = [normed[0] * size, len(normed) * size, (len(shapes) - normed[-1] - 1) * size]
            before, own, after = x.split(widths, dim=-1)
            own = F.layer_norm(own.unflatten(-1, (len(normed), size)), (size,))
            own = torch.addcmul(weights["layer_bias"], own, weights["layer"]).flatten(-2)
            x = torch.cat([before, own, after], dim=-1)
        rectified = sum(shape.activation == "relu" for shape in shapes) * size
        relu, gelu = x.split([rectified, x.shape[-1] - rectified], dim=-1)
        found = [relu.relu()] if rectified else []
        if gelu.shape[-1]:
            gelu = F.gelu(gelu, approximate="tanh")
            found += self._second(weights, gelu, size) if "second" in weights else [gelu]
        return found

    def _second(self, weights: Mapping[str, Tensor], gelu: Tensor, size: int) -> list[Tensor]:
        """The network of three layers goes on where the others end."""
        own, others = gelu.split([size, gelu.shape[-1] - size], dim=-1)
        own = F.layer_norm(torch.baddbmm(weights["second_bias"], own, weights["second"]), (size,))
        own = torch.addcmul(weights["second_layer_bias"], own, weights["second_layer"])
        return [F.gelu(own, approximate="tanh"), others]

    @torch.no_grad()
    def note(self, pooled: Tensor) -> None:
        """Sum up what the batch norms see, for `settle`.

        Args:
            pooled: mean tokens of all gates, [U, B, D].
        """
        if "relu_bn" in self.names:
            place = self.order.index("relu_bn")
            weight, bias = self.first_weight[:, place], self.first_bias[:, place, None]
            self.batch.note(torch.baddbmm(bias, pooled, weight.mT)[:, None])


def _margin(weight: Tensor) -> Tensor:
    """Of a last layer, for the logit of running less that of skipping."""
    skip, run = weight.unbind(2)
    return run - skip
