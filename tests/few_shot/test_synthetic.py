"""The synthetic set: eq. 4 and 5, determinism, and that no image knows of another."""

import pytest
import torch
import torch.nn.functional as F

from lightning_vitc.few_shot.metric_set import beta_of
from lightning_vitc.few_shot.synthetic import regularizer, synthesize, total_variation
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
