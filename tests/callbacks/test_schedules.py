"""The schedules of a budgeted search on a module that is no method: functions of the step alone, exact in resuming."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_vitc.callbacks.gate_freezing import GateFreezing
from lightning_vitc.callbacks.gate_staging import Arguments as GateStagingArguments
from lightning_vitc.callbacks.gate_staging import GateStaging
from lightning_vitc.callbacks.gumbel_temperature import GumbelTemperature
from lightning_vitc.callbacks.pruning_schedule import Arguments as PruningScheduleArguments
from lightning_vitc.callbacks.pruning_schedule import PruningSchedule


class Searched(LightningModule):
    """Anything with the controls; notes them in every step."""

    final_ratio, target_ratio, searching, gate_stage, temperature = 0.2, 0.2, True, "training", 1.0
    gate_every = 1

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.searching, self.target_ratio, self.gate_stage, self.temperature))
        return self.layer(torch.ones(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def callbacks() -> list[Callback]:
    return [PruningSchedule(0.2, 0.8, "linear"), GateStaging(0.4, 0.6), GumbelTemperature(5.0, 0.5)]


def fit(epochs: int, place: Path, stop: int = -1, resume: str | None = None, **options: Any) -> Searched:
    module = Searched()
    trainer = Trainer(
        max_epochs=epochs, max_steps=stop, accelerator="cpu", callbacks=callbacks(), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(range(10)), ckpt_path=resume)
    if stop > 0:
        trainer.save_checkpoint(place / "stopped.ckpt")
    return module


def test_every_control_over_a_training_of_ten_steps(tmp_path: Path) -> None:
    searching, targets, stages, temperatures = zip(*fit(1, tmp_path).seen, strict=True)
    assert searching == (False, False, *[True] * 8)
    # 0.2 to 0.8 of ten steps is six steps of 0.8 / 6 down
    assert targets == pytest.approx([1, 1, *(1 - 0.8 * number / 6 for number in range(1, 7)), 0.2, 0.2])
    assert stages == (*["closed"] * 4, *["training"] * 2, *["frozen"] * 4)
    assert temperatures == pytest.approx([5 * 0.1 ** (step / 10) for step in range(10)])


def test_the_first_step_of_the_search_asks_for_less(tmp_path: Path) -> None:
    seen = fit(1, tmp_path).seen
    first = next(control for control in seen if control[0])
    assert first[1] < 1


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole = fit(2, tmp_path).seen
    module = Searched()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(range(10)))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    assert fit(2, tmp_path, resume=str(tmp_path / "half.ckpt")).seen == whole[10:]


def test_accumulated_batches_of_a_step_see_the_same_controls(tmp_path: Path) -> None:
    seen = fit(2, tmp_path, accumulate_grad_batches=2).seen
    assert seen[::2] == seen[1::2]
    assert len(set(seen)) == 10


@pytest.mark.parametrize(("every", "moves"), [(1, True), (2, True), (3, True), (4, False), (5, True), (50, False)])
def test_gates_that_never_move_are_warned_of(tmp_path: Path, monkeypatch: Any, every: int, moves: bool) -> None:
    """They are trained in the steps number 5 and 6 of ten."""
    monkeypatch.setattr(Searched, "gate_every", every)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(1, tmp_path)
    found = [str(one.message) for one in caught if "gate_every" in str(one.message)]
    assert len(found) == (not moves)
    assert all(text.startswith(f"method.gate_every={every} is more than the 2 steps") for text in found)


@pytest.mark.parametrize(("shape", "expected"), [("linear", 0.5), ("cubic", 0.875), ("step", 1.0)])
def test_shapes_of_the_pruning_schedule(shape: Any, expected: float) -> None:
    schedule = PruningSchedule(0.2, 0.8, shape)
    assert [schedule.progress(time) for time in (0.1, 0.2, 0.5, 0.8, 1.0)] == pytest.approx([0, 0, expected, 1, 1])


@pytest.mark.parametrize(("shape", "expected"), [("exponential", 2.0), ("cosine", 2.5), ("linear", 2.5)])
def test_shapes_of_the_temperature(shape: Any, expected: float) -> None:
    schedule = GumbelTemperature(4.0, 1.0, shape, until=0.5)
    assert [schedule.at(time) for time in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([4, expected, 1, 1])


def test_a_gate_is_chosen_half_way() -> None:
    module, trainer, seen = SimpleNamespace(), SimpleNamespace(estimated_stepping_batches=10), []
    for trainer.global_step in range(10):
        GateFreezing(0.5).on_train_batch_start(trainer, module, None, 0)
        seen.append(module.selecting)
    assert seen == [True] * 5 + [False] * 5


@pytest.mark.parametrize("callback", callbacks(), ids=lambda callback: type(callback).__name__)
def test_stages_without_the_control_train_without_the_callback(callback: Any) -> None:
    assert callback.serves(Searched())
    assert not callback.serves(LightningModule())


@pytest.mark.parametrize("arguments", [PruningScheduleArguments, GateStagingArguments])
def test_start_before_end(arguments: Callable[..., Any]) -> None:
    arguments(start=0.1, end=0.2).validate()
    with pytest.raises(ValueError, match=r"^callbacks\.\w+\.start: 0\.5 must be less than end = 0\.5$"):
        arguments(start=0.5, end=0.5).validate()
