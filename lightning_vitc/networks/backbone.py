"""The shared backbone: a timm model that can also run as any of its sub-networks.

State-dict keys are timm's, so a timm or official DeiT checkpoint loads strictly.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_vitc.networks.families.family import network_of
from lightning_vitc.networks.kept import Kept, gather
from lightning_vitc.networks.layers import is_before
from lightning_vitc.networks.modules.compilation import Compile, method_of
from lightning_vitc.networks.modules.norms import set_eps
from lightning_vitc.networks.shared_weights import shared
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.networks.timm_models import RATES, create_supported, create_timm, is_own
from lightning_vitc.networks.weights.fitting import load_pretrained
from lightning_vitc.networks.weights.formats import mixed_frequencies
from lightning_vitc.networks.weights.settings import keys_beside
from lightning_vitc.schema import ModelConfig

SKELETONS = 64  # sub-networks that are kept ready
BranchGate = Callable[[int, int, Tensor], Tensor]
NOT_TIMMS = (
    "name",
    "pretrained",
    "new_head",
    "resample_antialias",
    "frozen_blocks",
    "grad_checkpointing",
)  # of `model`


class Backbone(nn.Module):
    """A network [B, C, H, W] -> [B, classes] whose `kept` argument selects a sub-network.

    A family puts it before its own model class, and says how a stream goes through its blocks: `stem`, `enter`, `tail`.

    Attributes:
        spec: the full architecture.
        blocks: all of them, over the stages.
        compiled: what of it is trained as a graph.
        constants: names of parameters that no training changes.
        frozen: with the stem, the first so many blocks rest; see `freeze`.
        pretrained_cfg: timm's (normalization, crop, ...), where the model has one.
    """

    spec: ArchSpec
    blocks: Sequence[Any]
    compiled: Compile
    rates: dict[str, float]
    num_classes: int
    constants: frozenset[str] = frozenset()
    frozen: int = 0
    pretrained_cfg: Any = None
    distilled_training: bool = False
    # these are timm's and `Compilable`'s
    reset_classifier: Callable[..., None]
    get_classifier: Callable[..., Any]
    no_weight_decay: Callable[[], set[str]]
    forward_features: Callable[..., Tensor]
    forward_head: Callable[..., Tensor]
    set_compiled: Callable[[Compile], None]

    def forward(self, x: Tensor, kept: Kept | None = None, gates: Tensor | BranchGate | None = None) -> Tensor:
        """Logits; a pair (class, distillation) when training a distilled model with `distilled_training`.

        Args:
            x: images [B, C, H, W].
            kept: run this sub-network. It is the model's own forward pass over slices of these parameters, so what
                runs here is what `compact` will make of the same `kept`. In training it normalizes by the batch, and
                leaves running statistics alone.
            gates: skip by gates: [L] weighs a block against its input, [L, 2] its attention and its MLP; a function
                of the block's number, the branch (0 attention, 1 MLP) and its mean normalized token [B, D] gives the
                weights of the images [B]. With `kept`, of the sub-network.
        """
        if kept is not None:
            more = {} if gates is None else {"gates": gates}
            small = self._skeleton(kept.spec, x.device, trained=gates is not None)
            weights = shared(dict(self.named_parameters()), kept) | self._statistics(kept)
            return functional_call(small, weights, (x,), more)
        if gates is None:
            return super().forward(x)
        whole = self.compiled == "whole" and isinstance(gates, Tensor)
        return self.forward_head(method_of(self, Backbone._gated_features, whole)(x, gates))

    def stem(self, x: Tensor) -> Tensor:
        """Images -> the stream of the first stage, before its blocks; a family's own."""
        raise NotImplementedError

    def enter(self, stage: int, x: Tensor) -> Tensor:
        """The stream of a stage from that of the one before; the first one's from the stem."""
        return x

    def tail(self, x: Tensor) -> Tensor:
        """What `forward_features` gives, from the stream after the last block; a family's own."""
        raise NotImplementedError

    def walk(self, x: Tensor, run: Callable[[int, Any, Tensor], Tensor], until: int | None = None) -> Tensor:
        """`forward_features` with something else in the place of each block.

        Args:
            x: images [B, C, H, W].
            run: of a block's number, the block (see `running`) and the stream, what the stream becomes.
            until: give the stream as it enters this block, instead of the features.
        """
        x, blocks, number = self.stem(x), self.running(), 0
        for stage, depth in enumerate(self.spec.depths):
            x = self.enter(stage, x)
            for _ in range(depth):
                if number == until:
                    return x
                x = run(number, blocks[number], x)
                number += 1
        return self.tail(x)

    def running(self) -> Sequence[Any]:
        """The blocks as functions of the stream (and gates) alone, for one pass."""
        return self.blocks

    def entering(self, block: int, x: Tensor) -> Tensor:
        """The stream as it enters a block, from images [B, C, H, W]."""
        return self.walk(x, lambda _, own, x: own(x), until=block)

    def _gated_features(self, x: Tensor, gates: Tensor | BranchGate) -> Tensor:
        each = _by_block(gates) if isinstance(gates, Tensor) else [partial(gates, n) for n in range(self.spec.depth)]

        def run(number: int, block: Any, x: Tensor) -> Tensor:
            gate = each[number]
            own = self.blocks[number]
            if not own.keeps_stream:
                return block(x)
            if not isinstance(gate, Tensor):
                return block(x, gates=gate)
            entered = own.entered(x)
            return entered + gate * (block(x) - entered)

        return self.walk(x, run)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep fewer activations for the backward pass, of sub-networks too; timm's method, done by the blocks."""
        for block in self.blocks:
            block.grad_checkpointing = enable

    def train_only(self, chosen: Callable[[str], bool]) -> None:
        """Train the parameters whose names are chosen, and no others; constants never."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(chosen(name) and name not in self.constants)

    def freeze(self, blocks: int) -> None:
        """Let the stem and the first blocks rest, from now on and in training too; of 0 blocks the stem trains as well.

        Their weights get no gradient, so that autograd builds no graph of them; nothing is dropped at random in them,
        and their running statistics stay.
        """
        self.frozen = blocks
        self.train_only(lambda name: not (blocks and is_before(name, blocks, self.spec)))
        self.train(self.training)

    def train(self, mode: bool = True) -> Any:
        """torch's, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for name, part in self.named_modules() if self.frozen else ():
            if name and is_before(f"{name}.", self.frozen, self.spec):
                part.training = False
        return self

    def set_norm_eps(self, eps: float) -> None:
        """The epsilon of every LayerNorm from now on, of sub-networks too."""
        self.spec = self.spec.with_options(norm_eps=eps)
        set_eps(self, eps)

    def _statistics(self, kept: Kept) -> dict[str, Tensor]:
        """Buffers of the state dict that belong to a sub-network: of batch norms, their running statistics."""
        buffers = dict(self.named_buffers())
        found = gather(buffers, kept) if buffers else {}
        return {name: buffer.clone() for name, buffer in found.items()} if self.training else found

    def _skeleton(self, spec: ArchSpec, device: torch.device, trained: bool = False) -> Any:
        """The sub-network without weights, made once a device; one that can be gated is `trained`."""
        skeletons, family, key = self.__dict__.setdefault("_skeletons", {}), network_of(spec), (spec, device, trained)
        if key not in skeletons:
            with torch.device("meta"):
                skeletons[key] = family.build(spec, self.rates, trained)
            family.place_buffers(skeletons[key], device)
            if len(skeletons) > SKELETONS:
                del skeletons[next(iter(skeletons))]
        small = skeletons[key]
        if small.training != self.training:
            small.train(self.training)
        for own, block in zip(self.blocks, small.blocks, strict=False):  # a sub-network has no more blocks
            block.grad_checkpointing = own.grad_checkpointing
        small.set_compiled(self.compiled)
        if spec.distilled:
            small.distilled_training = self.distilled_training
        return small


def create_backbone(
    name: str, pretrained: bool | str = False, *, new_head: bool = False, resample_antialias: bool = True,
    **timm_kwargs: Any,
) -> Backbone:  # fmt: skip
    """The backbone of a timm model.

    Args:
        name: any plain `vit_*`, `deit_*` or `deit3_*` of timm, or one of the families' own.
        pretrained: `True` for timm's weights from the hub, or the path of a checkpoint (`.safetensors`, or a `.pth` of
            tensors) or of its folder, see `weights`; loaded strictly. Epsilon and activation of Hugging Face's are
            taken from the `config.json` beside it, unless `norm_eps` and `act_layer` are given.
        new_head: a new classifier instead of that of the weights.
        resample_antialias: of position embeddings in a file, where its images had another size.
        timm_kwargs: passed to timm, e.g. `img_size=32, patch_size=4, num_classes=100`.

    Raises:
        UserError: for an unknown or unsupported model, or a checkpoint of another model.
    """
    timm_kwargs = keys_beside(pretrained) | {key: value for key, value in timm_kwargs.items() if value is not None}
    vit = create_supported(name, pretrained=pretrained is True, **timm_kwargs)
    model = from_timm(vit, {key: timm_kwargs[key] for key in RATES if timm_kwargs.get(key) is not None})
    _must_leave_no_rest(model, timm_kwargs.get("img_size"))
    if isinstance(pretrained, str):
        load_pretrained(model, pretrained, new_head=new_head, antialias=resample_antialias)
    elif pretrained and new_head:
        model.reset_classifier(model.num_classes)
    return model


def template(config: ModelConfig, num_classes: int | None = None) -> Backbone:
    """The network of a `model` section without weights: what it is and costs, in a moment."""
    kwargs = timm_kwargs(config) | ({} if num_classes is None else {"num_classes": num_classes})
    with torch.device("meta"):
        model = from_timm(create_supported(config.name, **kwargs))
    _must_leave_no_rest(model, config.img_size)
    return model


def timm_kwargs(config: ModelConfig) -> dict[str, Any]:
    """The keys of a `model` section that timm is told."""
    return {key: value for key, value in vars(config).items() if key not in NOT_TIMMS and value is not None}


def _must_leave_no_rest(model: Backbone, asked: Any) -> None:
    """Refuse images of a size that is asked for, and of which timm would leave pixels out; some models' own has such.

    Raises:
        UserError: naming the size.
    """
    own = (model.pretrained_cfg or {}).get("input_size", (0, 0))[-2:]
    if asked is not None and model.spec.img_size != tuple(own):
        model.spec.with_img_size(model.spec.img_size)


def create_teacher(
    name: str, pretrained: bool | str, num_classes: int, img_size: tuple[int, int], in_chans: int = 3
) -> torch.nn.Module:
    """Any timm model, with weights of the hub, of a file, or (`False`) random ones.

    The hub's weights come with their own classifier: for another number of classes it would be a random one.
    """
    kwargs: dict[str, Any] = {"in_chans": in_chans} | ({} if pretrained is True else {"num_classes": num_classes})
    if name.startswith(("vit_", "deit", "eva", "beit", "aimv2")) or is_own(name):
        kwargs["img_size"] = img_size
    kwargs |= keys_beside(pretrained)
    model = create_timm(name, section="teacher", pretrained=pretrained is True, **kwargs)
    if isinstance(pretrained, str):
        remedy = "; a teacher needs one for the classes of the data"
        load_pretrained(model, pretrained, remedy=remedy, key="teacher.model")
    return model


def from_timm(vit: Any, rates: Mapping[str, float] | None = None) -> Backbone:
    """Take over a timm model's architecture and, unless it is on the `meta` device, its weights."""
    model = from_spec(ArchSpec.of(vit), fresh=False, rates=rates)
    if not next(vit.parameters()).is_meta:
        weights = mixed_frequencies(vit.state_dict(), model.state_dict().keys())
        model.load_state_dict(weights)
    model.pretrained_cfg = getattr(vit, "pretrained_cfg", None)
    return model


def from_spec(spec: ArchSpec, fresh: bool = True, rates: Mapping[str, float] | None = None) -> Backbone:
    """A backbone of the described shape; with `fresh`, newly initialized as timm does."""
    family = network_of(spec)
    model = family.build(spec, rates or {}, trained=True)
    assert isinstance(model, Backbone)
    model.rates = dict(rates or {})
    if fresh:
        family.initialize(model)
    return model


def _by_block(gates: Tensor) -> Sequence[Tensor | tuple[Tensor, ...]]:
    """Of [L] the gate of every block, of [L, 2] the pair; one operator puts all their gradients together again."""
    scalars = gates.flatten().unbind()
    return scalars if gates.ndim == 1 else list(zip(scalars[::2], scalars[1::2], strict=True))
