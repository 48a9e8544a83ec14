"""Dropout and its like are functions of the step: equal after a resume, unequal between steps, epochs and ranks."""

from types import SimpleNamespace

import torch
from lightning.pytorch import Callback

from lightning_vitc.callbacks.step_seed import StepSeed


def draw(seed: int = 0, stage: str = "dense", epoch: int = 0, batch: int = 0, rank: int = 0) -> float:
    torch.manual_seed(int(torch.randint(1 << 30, ())))  # whatever came before
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    StepSeed(seed, stage).on_train_batch_start(trainer, None, None, batch)
    return float(torch.rand(()))


def test_a_draw_depends_on_all_of_these_and_nothing_else():
    places = [dict(seed=1), dict(stage="scala"), dict(epoch=1), dict(batch=1), dict(rank=1), {}]
    assert [draw(**place) for place in places] == [draw(**place) for place in places]
    assert len({draw(**place) for place in places}) == len(places)
    assert draw(epoch=1, batch=11) != draw(epoch=11, batch=1)


def test_a_resumed_training_drops_what_the_uninterrupted_one_drops(layer, fit, tmp_path):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "here.ckpt")

    class Noise(Callback):
        def on_validation_end(self, *_):
            torch.rand(3)

    whole, again, unseeded = layer(), layer(), layer()
    fit(whole, StepSeed(0, "x"), Save(), max_epochs=3)
    fit(again, StepSeed(0, "x"), ckpt_path=tmp_path / "here.ckpt", max_epochs=3)
    assert again.losses == whole.losses[7:]
    other = layer()
    fit(other, StepSeed(0, "x"), Noise(), max_epochs=3)
    assert other.losses == whole.losses
    fit(unseeded, Noise(), max_epochs=3)
    assert unseeded.losses != whole.losses


def test_micro_batches_of_a_step_are_seeded_apart(layer, fit):
    seen = []

    class Look(Callback):
        def on_train_batch_start(self, *_):
            seen.append(float(torch.rand(())))

    fit(layer(), StepSeed(0, "x"), Look(), accumulate_grad_batches=2)
    assert len(seen) == len(set(seen)) == 20
