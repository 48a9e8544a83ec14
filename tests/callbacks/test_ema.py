"""The average against one written out here."""

import copy

import pytest
import torch
from lightning.pytorch import Callback

from lightning_vitc.callbacks.checkpoint import StageCheckpoint
from lightning_vitc.callbacks.ema import EMA
from lightning_vitc.callbacks.step_seed import StepSeed
from lightning_vitc.training.teacher import Teacher


def averages(weights: list[torch.Tensor], decay: float, start: int = 0, every: int = 1) -> list[torch.Tensor]:
    """After every step; `weights` are those after each step."""
    result, started = [], False
    for step, weight in enumerate(weights):
        if step < start:
            result.append(weight)
            started = True
        elif step % every:
            result.append(result[-1])
        else:
            result.append(decay * result[-1] + (1 - decay) * weight if started else weight)
            started = True
    return result


CASES = [
    dict(decay=0.9),
    dict(decay=0.5, start_step=7),
    dict(decay=0.8, every_n_steps=3),
    dict(decay=0.9, start_step=99),
]


@pytest.mark.parametrize("arguments", CASES)
def test_what_is_validated_saved_and_left_is_the_average(layer, trace, fit, tmp_path, arguments):
    module = layer(plan=[float(step) for step in range(11)])
    fit(module, trace, EMA(**arguments), StageCheckpoint())
    names = {"start_step": "start", "every_n_steps": "every"}
    expected = averages(trace.weights, **{names.get(key, key): value for key, value in arguments.items()})
    for number, step in enumerate((4, 9)):
        weight, mask = module.validated[number]
        torch.testing.assert_close(weight, expected[step], rtol=1e-6, atol=1e-7)
        assert mask == step + 1  # the mask of the trained model, not an average nor an old one
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"]["layer.weight"], expected[9], rtol=1e-6, atol=1e-7)
    assert torch.equal(saved["current_model_state"]["layer.weight"], trace.weights[9])
    assert saved["state_dict"]["mask"] == saved["current_model_state"]["mask"] == 10
    torch.testing.assert_close(module.layer.weight.detach(), expected[9], rtol=1e-6, atol=1e-7)
    assert module.mask == 10


def test_training_does_not_notice(layer, trace, fit):
    """Its weights are those of a training without an average."""
    fit(layer(), trace, EMA(decay=0.5), max_epochs=3)
    averaged, trace.weights = trace.weights, []
    fit(layer(), trace, max_epochs=3)
    assert all(torch.equal(one, other) for one, other in zip(averaged, trace.weights, strict=True))


@pytest.mark.parametrize("step", [3, 5, 7, 10])
@pytest.mark.parametrize("arguments", [dict(decay=0.9), dict(decay=0.8, start_step=4, every_n_steps=2)])
def test_resume_is_exact(layer, fit, tmp_path, step, arguments):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == step:
                trainer.save_checkpoint(tmp_path / "here.ckpt")

    whole, again = layer(), layer()
    fit(whole, StepSeed(0, "x"), EMA(**arguments), Save(), max_epochs=3)
    fit(again, StepSeed(0, "x"), EMA(**arguments), ckpt_path=tmp_path / "here.ckpt", max_epochs=3)
    assert again.losses == whole.losses[step:]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    for (weight, mask), (expected, known) in zip(reversed(again.validated), reversed(whole.validated), strict=False):
        assert torch.equal(weight, expected)
        assert mask == known


def test_the_average_shares_the_teacher_and_lives_where_the_module_will(layer, fit):
    class Look(Callback):
        def on_train_start(self, trainer, module):
            average = ema._average_model
            assert average.module.teacher is module.teacher
            assert {id(p) for p in average.parameters()}.isdisjoint(map(id, module.teacher.network.parameters()))
            assert {p.device for p in average.parameters()} == {trainer.strategy.root_device}

    ema, module = EMA(), layer()
    module.teacher = Teacher(torch.nn.Linear(4, 10), 10)
    before = copy.deepcopy(module.teacher.network.state_dict())
    fit(module, ema, Look(), max_epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in module.teacher.network.state_dict().items())


def test_statistics_of_batch_norms_are_averaged_with_the_weights(layer, fit):
    """The number of batches, as any other buffer, is that of the trained model."""

    class Follow(Callback):
        def __init__(self):
            self.means = []

        def on_train_batch_end(self, trainer, module, *_):
            self.means.append(module.norm.running_mean.clone())

    follow, module = Follow(), layer()
    module.norm = torch.nn.BatchNorm1d(10)
    linear = module.layer.forward
    module.layer.forward = lambda x: module.norm(linear(x))
    fit(module, EMA(decay=0.5), follow)
    torch.testing.assert_close(module.norm.running_mean, averages(follow.means, 0.5)[-1], rtol=1e-6, atol=1e-7)
    assert module.norm.num_batches_tracked == len(follow.means) == 10
