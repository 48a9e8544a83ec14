"""The synthetic set: eq. 4 and 5, determinism, and that no image knows of another."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from lightning_vitc.few_shot.metric_set import beta_of
from lightning_vitc.few_shot.synthetic import _rate, batch_norm_distances, regularizer, synthesize, total_variation
from lightning_vitc.networks.backbone import from_spec
from lightning_vitc.networks.families.resnet.shape import resnet
from lightning_vitc.schema import SyntheticConfig

QUICK = {"count": 6, "batch": 6, "iterations": 12, "warmup": 3}
LOOK = {"shape": (3, 16, 16), "num_classes": 5, "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.25, 0.5), "beta": 0.6}


def make(network, seed: int = 0, **keys) -> torch.Tensor:
    return synthesize(network, SyntheticConfig(**(QUICK | keys)), **LOOK, seed=seed)


def test_seed_decides(make_network):
    network = make_network()
    one = make(network)
    assert torch.equal(one, make(network))
    assert not torch.equal(one, make(network, seed=1))
    assert (one.dtype, one.shape) == (torch.float32, (6, 3, 16, 16))


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_images_do_not_depend_on_the_batch_or_the_count(make_network, batch):
    network = make_network()
    torch.testing.assert_close(make(network, batch=batch), make(network), rtol=0, atol=1e-3)
    torch.testing.assert_close(make(network, count=9, batch=batch)[:6], make(network), rtol=0, atol=1e-3)


def test_the_objective_comes_down(make_network):
    """Of the classes they were drawn for, which is what the network says of them in the end."""
    network = make_network()
    noise, images = make(network, iterations=1, lr=1e-9), make(network, iterations=150, roll=0, flip=False)

    def certainty(batch: torch.Tensor) -> float:
        return network(batch).softmax(-1).max(-1).values.mean().item()

    assert certainty(images) > certainty(noise) + 0.2


class Steered(torch.nn.Module):
    """The loss of class 0 has the slope `slopes[t]` in the only pixel at iteration t."""

    def __init__(self, *slopes: float):
        super().__init__()
        self.slopes, self.anchor = list(slopes), torch.nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        other = 100 + self.slopes.pop(0) * images.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(other), other], dim=1)


def pixel(network: torch.nn.Module, lr: float) -> float:
    keys = SyntheticConfig(count=1, batch=1, iterations=2, warmup=4, lr=lr, tv=0.0, l2=0.0)
    look = {"shape": (1, 1, 1), "num_classes": 2, "mean": (0.5,), "std": (0.01,), "beta": 1.0}
    return float(synthesize(network, keys, **look, seed=2))


def test_two_steps_of_the_descent_by_hand():
    """A quarter and a half of the rate, in a warm-up of four iterations, by Adam(.5, .9) on slopes of 1 and 3.

    The first step is the rate itself. In the second the moments are (.5 + 3) / (1 + .5) = 7/3 and
    (.9 + 9) / (1 + .9) = 99/19, and the step (7/3) / (99/19)^.5 = 1.02220 of the rate.
    """
    start = pixel(Steered(1.0, 3.0), lr=1e-9)
    assert pixel(Steered(1.0, 3.0), lr=0.4) - start == pytest.approx(-0.1 - 0.2 * 1.02220, abs=1e-4)


def test_the_rate_warms_up_and_comes_down_by_a_cosine():
    recipe = SyntheticConfig(iterations=10, warmup=2)
    rates = [_rate(iteration, recipe) for iteration in (0, 1, 2, 6, 9)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0380602], abs=1e-6)


class Watching(torch.nn.Module):
    """Remembers the images that it was shown."""

    def __init__(self):
        super().__init__()
        self.seen, self.anchor = [], torch.nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.detach().clone())
        return torch.stack([images.flatten(1).sum(1), torch.zeros(len(images))], dim=1)


def moves(side: int, seed: int = 0, iterations: int = 200, **keys) -> list[tuple[int, int, bool]]:
    """How far both images were rolled down and to the right, and whether they were flipped, iteration by iteration."""
    network = Watching()
    recipe = SyntheticConfig(count=2, batch=2, iterations=iterations, warmup=0, lr=1e-9, **keys)
    look = {"shape": (1, side, side), "num_classes": 2, "mean": (0.5,), "std": (0.01,), "beta": 1.0}
    images = synthesize(network, recipe, **look, seed=seed)
    places = {}
    for down, right, flipped in product(range(-3, 4), range(-3, 4), (False, True)):
        rolled = images.roll((down, right), dims=(-2, -1))
        places[_extremes(rolled.flip(-1) if flipped else rolled)] = (down, right, flipped)
    assert len(places) == 7 * 7 * 2
    return [places[_extremes(seen)] for seen in network.seen]


def _extremes(images: torch.Tensor) -> tuple[int, ...]:
    """Where the lightest and the darkest pixel of every image are."""
    flat = images.flatten(1)
    return (*flat.argmax(1).tolist(), *flat.argmin(1).tolist())


def test_all_images_are_rolled_and_flipped_alike_at_random():
    """By default up to 30 of 224 pixels, which are 2 of 16, both ways, and half of the times flipped."""
    found = moves(16)
    for axis in (0, 1):
        counts = [sum(move[axis] == pixels for move in found) for pixels in range(-2, 3)]
        assert sum(counts) == 200
        assert min(counts) > 20
    assert sum(move[2] for move in found) == pytest.approx(100, abs=25)
    assert len({move[:2] for move in found}) == 25


def test_the_seed_decides_how_images_are_moved():
    assert moves(16, iterations=20) != moves(16, seed=1, iterations=20)


def test_every_image_starts_from_noise_of_its_own(make_network):
    images = make(make_network(), iterations=1, lr=1e-9)
    assert len({float(image.sum()) for image in images}) == 6


def test_rolls_and_flips_can_be_turned_off():
    assert {move[0] for move in moves(16, roll=1)} == {-1, 0, 1}
    assert set(moves(16, roll=0, flip=False)) == {(0, 0, False)}


def test_pixels_are_those_of_an_image(make_network):
    images = make(make_network(), lr=3.0)
    pixels = images * torch.tensor(LOOK["std"])[:, None, None] + torch.tensor(LOOK["mean"])[:, None, None]
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert (pixels > 0.99).any()


def test_the_network_is_left_alone(make_network):
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    make(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_total_variation_by_hand():
    image = torch.tensor([[0.0, 3.0, 1.0], [4.0, 3.0, 1.0], [0.0, 0.0, 0.0]])[None, None]
    # pixels with a neighbor below and to the right: (dx, dy) = (3, 4), (-2, 0), (-1, -4), (-2, -3)
    expected = sum((dx**2 + dy**2) ** 0.3 for dx, dy in ((3, 4), (-2, 0), (-1, -4), (-2, -3)))
    torch.testing.assert_close(total_variation(image, 0.6), torch.tensor([expected]), rtol=1e-4, atol=1e-4)


def test_the_regularizer_is_of_each_image():
    images = torch.randn(3, 2, 5, 5)
    own = torch.cat([regularizer(image[None], 1e-2, 1e-1, 1.0) for image in images])
    torch.testing.assert_close(regularizer(images, 1e-2, 1e-1, 1.0), own)
    norm = images[0].square().sum().sqrt()
    torch.testing.assert_close(regularizer(images[:1], 0.0, 1.0, 1.0)[0], norm)


def test_a_flat_image_has_a_gradient():
    image = torch.zeros(1, 1, 4, 4, requires_grad=True)
    total_variation(image, 0.6).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_exponent_of_the_papers():
    assert beta_of("vit_base_patch16_224", SyntheticConfig()) == 0.6
    assert beta_of("deit_base_patch16_224", SyntheticConfig()) == 1.0
    assert beta_of("swin_tiny_patch4_window7_224", SyntheticConfig()) == 1.0
    assert beta_of("deit_base_patch16_224", SyntheticConfig(beta=0.5)) == 0.5


def test_scores(make_network, images):
    from lightning_vitc.few_shot.scores import score

    one, other = make_network(), make_network("vit", depth=3)
    with torch.no_grad():
        p, q = one(images).softmax(-1), other(images).softmax(-1)
        expected = (p * (p.log() - q.log())).sum(-1).mean().item()
        squared = F.mse_loss(one.forward_features(images), other.forward_features(images)).item()
    assert score(one, other, images) == pytest.approx(expected, rel=1e-4)
    assert score(one, other, images, "mse") == pytest.approx(squared, rel=1e-4)
    many = images.repeat(20, 1, 1, 1)  # more than fit into a pass
    assert score(one, other, many) == pytest.approx(expected, rel=1e-4)
    assert score(one, one, images) == pytest.approx(0, abs=1e-6)


# Batch norms


def test_the_distance_from_running_statistics_by_hand():
    """Of two channels: means 1 and 3 from 0, variances 1 and 4 from 1; ||(1, 3)|| + ||(0, 3)||."""
    norm = torch.nn.BatchNorm2d(2).eval()
    image = torch.tensor([[0.0, 2.0], [1.0, 5.0]])[None, :, None, :]
    with batch_norm_distances(norm) as distances:
        norm(image)
    norm(image)  # nobody looks any more
    assert [distance.item() for distance in distances] == [pytest.approx(10**0.5 + 3)]


def test_statistics_come_closer(monkeypatch):
    """Of a network of convolutions, by the term of deep inversion; a Vision Transformer has none."""
    torch.manual_seed(0)
    network = from_spec(resnet("resnet18", (1,), (4,), img_size=16, num_classes=5)).eval()
    network.bn1.running_mean += 2
    images = {weight: make(network, batch_norm=weight, iterations=40, roll=0) for weight in (0.0, 1.0)}

    def distance(batch: torch.Tensor) -> float:
        with torch.no_grad(), batch_norm_distances(network) as distances:
            network(batch)
        return sum(map(float, distances))

    assert distance(images[1.0]) < 0.9 * distance(images[0.0])


def test_without_batch_norms_the_term_is_idle(make_network):
    network = make_network()
    assert torch.equal(make(network, batch_norm=1.0), make(network, batch_norm=0.0))
