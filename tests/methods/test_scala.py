from fractions import Fraction

import pytest
import timm
import torch
from torch import Tensor

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.methods import scala
from lightning_vitc.methods.scala import Arguments, Scala, width_name
from lightning_vitc.networks.backbone import from_timm
from lightning_vitc.networks.compaction import compact
from lightning_vitc.schema import OptimizerConfig
from lightning_vitc.training.teacher import Teacher

SMALL = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
QUARTERS = tuple(Fraction(number, 4) for number in (4, 3, 2, 1))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def network(distilled: bool) -> torch.nn.Module:
    name = "deit_tiny_distilled_patch16_224" if distilled else "vit_tiny_patch16_224"
    model = from_timm(timm.create_model(name, **SMALL)).train()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in key and key.endswith("weight") else 0.0, 0.3)
    return model


def module(distilled: bool = True, taught: bool = False, widths=QUARTERS, **arguments) -> Scala:
    teacher = Teacher(network(True), 5) if taught else None
    keys = Arguments(**{"granularity": 0.25} | arguments)
    built = Scala(network(distilled), OptimizerConfig(lr=1e-3), teacher, keys)
    built.widths = widths
    return built.train()


def batch(soft: bool = False) -> tuple[Tensor, Tensor]:
    images = torch.randn(6, 3, 16, 16)
    return images, torch.rand(6, 5).softmax(-1) if soft else torch.randint(5, (6,))


# The step against formulas written out here


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.dim() == 1:
        targets = torch.eye(5)[targets]
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    p = teacher.detach().softmax(-1)
    return (p * (p.log() - student.log_softmax(-1))).sum(-1).mean()


def reference(model: Scala, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Every width's loss, all of them in one graph."""
    keys, losses, heads = model.arguments, {}, []
    for width in model.widths:
        logits = model.backbone(images, kept=model.kept(width))
        cls, dist = logits if isinstance(logits, tuple) else (logits, logits)
        a, c = keys.hard_distillation, keys.calibration_weight
        untaught = (1 - a) * cross_entropy(cls, targets) + a * cross_entropy(dist, targets)
        if width == model.grid[-1]:
            loss = untaught
            if model.teacher is not None and isinstance(logits, tuple):
                labels = model.teacher.network(images).argmax(-1)
                loss = (1 - a) * cross_entropy(cls, targets) + a * cross_entropy(dist, labels)
        elif keys.transfer == "none":
            loss = c * untaught
        else:
            loss = divergence(dist, heads[-1] if keys.transfer == "progressive" else heads[0])
            if keys.noise_calibration:
                loss = loss + c * cross_entropy(cls, targets)
        heads.append(dist)
        losses[f"{width_name(width)}/train_loss"] = loss
    return losses


CASES = {
    "distilled, taught": {"taught": True},
    "distilled, alone": {},
    "plain": {"distilled": False},
    "more of the teacher": {"taught": True, "hard_distillation": 0.8},
    "nothing of the teacher": {"taught": True, "hard_distillation": 0.0},
    "nothing but the teacher": {"taught": True, "hard_distillation": 1.0},
    "no noise calibration": {"taught": True, "noise_calibration": False},
    "weighted noise calibration": {"distilled": False, "calibration_weight": 0.3},
    "us-net": {"taught": True, "transfer": "full"},
    "us-net, plain": {"distilled": False, "transfer": "full", "noise_calibration": False},
    "no transfer": {"taught": True, "transfer": "none"},
    "no transfer, weighted": {"taught": True, "transfer": "none", "calibration_weight": 0.3},
    "official slices": {"taught": True, "slice": "official", "orientation": "official"},
    "whole heads": {"taught": True, "slice": "heads", "s": 0.5, "granularity": 0.5, "widths": QUARTERS[::2]},
    "no isolation": {"taught": True, "isolated_activation": False},
    "two widths": {"taught": True, "s": 0.75, "widths": QUARTERS[:2]},
    "three widths": {"taught": True, "s": 0.5, "widths": QUARTERS[:3]},
    "the full width alone": {"taught": True, "widths": QUARTERS[:1]},
    "l less than 1": {"taught": True, "l": 0.75, "widths": QUARTERS[1:]},
}


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft labels"])
@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradient_are_those_of_the_summed_loss(case, soft):
    model = module(**CASES[case])
    images, targets = batch(soft)
    losses = reference(model, images, targets)
    sum(losses.values()).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()

    result = model.step(images, targets)
    result.loss.backward()

    assert list(result.terms) == [*losses, "loss"]
    for name, loss in losses.items():
        torch.testing.assert_close(result.terms[name], loss.detach())
    torch.testing.assert_close(result.terms["loss"], sum(losses.values()).detach())
    torch.testing.assert_close(result.loss.detach(), list(losses.values())[-1].detach())
    assert not any(term.requires_grad for term in result.terms.values())
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    assert largest > 0
    for name, parameter in model.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None
        else:
            assert (parameter.grad - expected[name]).abs().max() <= 1e-6 * largest, name


def test_names_of_the_terms():
    assert list(module().step(*batch()).terms) == [
        "width_1.00/train_loss", "width_0.75/train_loss", "width_0.50/train_loss", "width_0.25/train_loss", "loss",
    ]  # fmt: skip
    names = [width_name(Fraction(number, 32)) for number in (8, 9, 10, 12, 32)]
    assert names == ["width_0.25", "width_0.2812", "width_0.3125", "width_0.375", "width_1.00"]
    assert len({width_name(width) for width in Arguments(granularity=1 / 64).grid()}) == 49


# Order, teachers, memory


@pytest.fixture
def watched(monkeypatch):
    """A module that tells what it does: ("forward", width), ("backward", width) and who taught whom."""

    def watch(**arguments) -> tuple[Scala, list[tuple[str, Fraction]], list[tuple[Fraction, Fraction]]]:
        model, events, lessons = module(**arguments), [], []
        heads: dict[Fraction, Tensor] = {}

        def note(_module, _args, kwargs, output) -> None:
            kept = kwargs["kept"]
            width = Fraction(1) if kept is None else Fraction(kept.spec.embed_dim, 32)
            heads[width] = output[1] if isinstance(output, tuple) else output
            events.append(("forward", width))

        def accumulate(loss: Tensor) -> None:
            events.append(("backward", events[-1][1]))
            loss.backward()

        def distillation(student: Tensor, teacher: Tensor) -> Tensor:
            assert not teacher.requires_grad
            assert student.requires_grad
            by = [width for width, head in heads.items() if torch.equal(head, teacher)]
            to = [width for width, head in heads.items() if head is student]
            lessons.extend(zip(by, to, strict=True))
            return student.sum() * 0

        model.backbone.register_forward_hook(note, with_kwargs=True)
        monkeypatch.setattr(model, "accumulate", accumulate)
        monkeypatch.setattr(scala, "distillation", distillation)
        return model, events, lessons

    return watch


@pytest.mark.parametrize("distilled", [True, False])
@pytest.mark.parametrize(
    ("transfer", "teachers"), [("progressive", QUARTERS[:3]), ("full", QUARTERS[:1] * 3), ("none", [])]
)
def test_who_teaches_whom_and_in_which_order(watched, distilled, transfer, teachers):
    model, events, lessons = watched(distilled=distilled, transfer=transfer)
    model.step(*batch())
    in_turn = [(what, width) for width in QUARTERS for what in ("forward", "backward")]
    assert events == in_turn[:-1]  # the last backward is Lightning's
    assert lessons == list(zip(teachers, QUARTERS[1:], strict=False))


def test_the_full_width_alone_leaves_its_backward_to_lightning(watched):
    model, events, lessons = watched(widths=QUARTERS[:1])
    result = model.step(*batch())
    assert events == [("forward", Fraction(1))]
    assert not lessons
    assert set(result.terms) == {"width_1.00/train_loss", "loss"}


def test_the_external_teacher_is_asked_once_without_a_graph_and_not_trained():
    model = module(taught=True)
    calls = []
    model.teacher.network.register_forward_hook(lambda _module, _args, output: calls.append(output))
    model.step(*batch()).loss.backward()
    assert [output.requires_grad for output in calls] == [False]
    assert not any(parameter.requires_grad for parameter in model.teacher.network.parameters())
    assert not any("teacher" in name for name in model.state_dict())
    assert not model.teacher.network.training


class Held:
    """A tensor that autograd holds for the backward pass; counts those alive, in bytes."""

    live = peak = 0

    def __init__(self, tensor: Tensor):
        self.tensor, self.size = tensor, tensor.nbytes
        Held.live += self.size
        Held.peak = max(Held.peak, Held.live)

    def __del__(self) -> None:
        Held.live -= self.size


def test_a_step_holds_no_more_activations_than_the_full_width_alone():
    peaks = {}
    for widths in (QUARTERS[:1], QUARTERS):
        model = module(taught=True, widths=widths)
        Held.live = Held.peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
            result = model.step(*batch())
            result.loss.backward()
        peaks[len(widths)] = Held.peak
    assert 0 < peaks[1] <= peaks[4] <= 1.1 * peaks[1]


# Networks of a width


def test_every_width_is_validated_as_the_network_that_is_exported():
    model = module(eval_widths=None).eval()
    images = batch()[0]
    variants = model.variants()
    assert [variant.name for variant in variants] == ["width_0.25", "width_0.50", "width_0.75", "width_1.00"]
    with torch.no_grad():
        for variant, width in zip(variants, model.grid, strict=True):
            small = compact(model.backbone, model.kept(width))
            assert variant.spec == (model.backbone.spec if width == 1 else model.kept(width).spec)
            assert variant.spec.embed_dim == 32 * width
            torch.testing.assert_close(variant.forward(images), small(images), rtol=0, atol=1e-5)
            torch.testing.assert_close(model(images, width), small(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(model(images), model.backbone(images))


EVALUATED = {
    "scala": ({}, "both"),
    "taught": ({"taught": True}, "both"),
    "no noise calibration": ({"noise_calibration": False}, "distillation"),
    "us-net": ({"transfer": "full", "noise_calibration": False, "isolated_activation": False}, "distillation"),
    "no transfer": ({"transfer": "none"}, "both"),
    "plain us-net": ({"distilled": False, "transfer": "full", "noise_calibration": False}, "both"),
}


@pytest.mark.parametrize("case", EVALUATED)
def test_a_width_is_evaluated_by_the_heads_that_it_trains(case):
    arguments, heads = EVALUATED[case]
    model, (images, targets) = module(**arguments), batch()
    model.step(images, targets).loss.backward()
    narrow, full = Fraction(1, 2), Fraction(1)
    assert (model.heads(narrow), model.heads(full)) == (heads, "both")

    alone = module(**arguments, widths=(full, narrow))
    wide = alone.backbone(images)
    wide = (wide[1] if isinstance(wide, tuple) else wide).detach()
    taught = None if alone.arguments.transfer == "none" else wide
    alone._narrow_loss(alone.backbone(images, kept=alone.kept(narrow)), taught, targets).backward()
    trained = alone.backbone.head.weight.grad
    assert (trained is None or not trained.any()) == (heads == "distillation")

    logits = model.backbone(images, kept=model.kept(narrow))
    wanted = logits
    if isinstance(logits, tuple):
        wanted = sum(logits) / 2 if heads == "both" else logits[1]
    model.eval()
    (variant,) = [variant for variant in model.variants() if variant.name == "width_0.50"]
    elastic = model.elastic()
    elastic.set_width(narrow)
    with torch.no_grad():
        torch.testing.assert_close(variant.forward(images), wanted.detach())
        torch.testing.assert_close(compact(model.backbone, model.evaluated(narrow))(images), wanted.detach())
        torch.testing.assert_close(elastic(images), wanted.detach())
        stored, _ = elastic.stored()
        again = type(elastic).restored(elastic.full, stored)
        again.set_width(narrow)
        assert torch.equal(again(images), elastic(images))


@pytest.mark.parametrize(("orientation", "ends"), [
    ("paper", ["trailing", "leading", "leading"]), ("official", ["leading", "trailing", "leading"]),
])  # fmt: skip
def test_which_end_of_the_network_a_width_is(orientation, ends):
    """Of the smallest, a middle one and the widest, which is less than all of the network; and so in the export."""
    model, images = module(l=0.75, widths=QUARTERS[1:], orientation=orientation).eval(), batch()[0]
    assert [model._end(width) for width in model.grid] == ends
    elastic = model.elastic()
    for width in model.grid:
        elastic.set_width(width)
        with torch.no_grad():
            torch.testing.assert_close(elastic(images), model(images, width), rtol=0, atol=1e-5)


def test_a_new_module_trains_both_ends_until_a_callback_says_otherwise():
    model = Scala(network(True), OptimizerConfig(lr=1e-3))
    assert model.widths == (Fraction(1), Fraction(1, 4))
    assert model.backbone.distilled_training
    assert len(model.grid) == 13
    assert not Scala(network(False), OptimizerConfig(lr=1e-3)).backbone.distilled_training


def test_a_plain_backbone_says_that_its_teacher_is_ignored():
    with pytest.warns(UserWarning, match="teacher: ignored, vit_tiny_patch16_224 has no distillation token"):
        module(distilled=False, taught=True)


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(UserError, match=r"^teacher: it has 7 classes, the student 5; they must agree$"):
        Scala(network(True), OptimizerConfig(lr=1e-3), Teacher(network(True), 7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"s": 0.3, "l": 0.5, "granularity": 0.1}, "width: 0.3 of the embedding width 32 is 9.6, not a whole number"),
        ({"slice": "heads"}, "width: 0.25 of the number of heads 2 is 0.5, not a whole number"),
        ({"untrained_widths": [0.4]}, "width: 0.4 of the embedding width 32 is 12.8, not a whole number"),
    ],
)
def test_widths_that_do_not_come_out_whole_are_refused_before_training(arguments, message):
    with pytest.raises(UserError) as caught:
        module(**arguments)
    assert str(caught.value) == message


def test_widths_that_were_never_trained_are_tested_as_well():
    model = module(untrained_widths=[0.375, 0.75])
    assert model.arguments.tested_widths() == sorted([*QUARTERS, Fraction(3, 8)])
    assert model.grid == sorted(QUARTERS)


# Arguments


@pytest.mark.parametrize(("granularity", "count"), [(0.25, 4), (0.125, 7), (0.0625, 13), (0.03125, 25)])
def test_the_papers_grids_are_exact(granularity, count):
    grid = Arguments(granularity=granularity).grid()
    step = Fraction(granularity)
    assert grid == [Fraction(1, 4) + number * step for number in range(count)]
    assert all(type(width) is Fraction for width in grid)
    assert (grid[0], grid[-1]) == (Fraction(1, 4), 1)


def test_other_grids():
    assert Arguments(s=0.5, granularity=0.5).grid() == [Fraction(1, 2), 1]
    assert Arguments(s=0.2, l=0.8, granularity=0.1).grid() == [Fraction(number, 10) for number in range(2, 9)]
    for keys in (Arguments(s=0.2, l=0.8, granularity=0.1), Arguments(s=0.5, granularity=0.5), Arguments()):
        keys.validate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"s": 0.5, "l": 0.5}, "method.s: 0.5 must be less than method.l = 0.5"),
        ({"s": 0.75, "l": 0.5}, "method.s: 0.75 must be less than method.l = 0.5"),
        (
            {"granularity": 0.2},
            "method.granularity: steps of 0.2 from s = 0.25 miss l = 1; (l - s) / granularity must be a whole number",
        ),
        ({"granularity": 0.25, "eval_widths": [0.5, 0.6]},
         "method.eval_widths: 0.6 is not a width of the grid 0.25, 0.5, 0.75, 1"),
        ({"eval_widths": []}, "method.eval_widths: empty; name at least one width, or leave the key out"),
        ({"untrained_widths": [0.2]}, "method.untrained_widths: 0.2 is not between s = 0.25 and l = 1"),
        ({"transfer": "none", "noise_calibration": False},
         "method.noise_calibration: must be true with transfer=none, else widths learn nothing"),
    ],
)  # fmt: skip
def test_rules_between_keys(arguments, message):
    with pytest.raises(ValueError, match=r"^method\.") as caught:
        Arguments(**arguments).validate()
    assert str(caught.value) == message


def test_the_released_slice_means_an_epsilon():
    """Another one would be replaced without a word."""
    assert load_experiment("scala_digits", ["method.slice=released", "model.norm_eps=1e-5"]).model.norm_eps == 1e-5
    with pytest.raises(ValueError, match=r"^model\.norm_eps: 1e-06 contradicts method\.slice=released, which means"):
        load_experiment("scala_digits", ["method.slice=released", "model.norm_eps=1e-6"])


@pytest.mark.parametrize(
    ("arguments", "widths"),
    [
        ({}, [0.25, 0.5, 0.75, 1]),
        ({"granularity": 0.03125}, [0.25, 0.5, 0.75, 1]),
        ({"granularity": 0.75}, [0.25, 1]),
        ({"s": 0.2, "l": 0.8, "granularity": 0.1}, [0.2, 0.5, 0.8]),
        ({"eval_widths": [1, 0.3125]}, [0.3125, 1]),
    ],
)
def test_validated_widths(arguments, widths):
    keys = Arguments(**arguments)
    keys.validate()
    assert keys.validated_widths() == [Fraction(str(width)) for width in widths]


# Networks with batch norms


class Data:
    """Stands in for the data module."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.asked = images, []

    def spread_batches(self, split: str, count: int) -> list[Tensor]:
        self.asked.append((split, count))
        return [self.images]


def test_widths_are_evaluated_and_exported_with_statistics_of_their_own():
    from tests.networks.conv_nets import images, of_use
    from tests.networks.conv_nets import network as convolutional

    built = Scala(of_use(convolutional("mobilenet")), OptimizerConfig(lr=1e-3), None, Arguments(granularity=0.25))
    built.widths, data, half = QUARTERS, Data(images(64)), Fraction(1, 2)
    result = built.train().step(images(8), torch.arange(8) % 5)
    result.loss.backward()
    assert all(weight.grad is not None for weight in built.backbone.parameters())
    built.eval()
    built.calibrate(QUARTERS, data)
    assert data.asked == [("train", 5120)]  # US-Net's number, once for all widths
    with torch.no_grad():
        logits, before = built(images(64), half), built.backbone(images(64), kept=built.kept(half))
        assert not torch.allclose(logits, before, atol=1e-2)
        alone = compact(built.backbone, built.evaluated(half))
        torch.testing.assert_close(alone(images(64)), logits, rtol=0, atol=1e-6)
        elastic = built.elastic()
        elastic.set_width(half)
        torch.testing.assert_close(elastic(images(64)), logits, rtol=0, atol=1e-6)
