"""Trainers of one process and of several, by hand, by Lightning and by Slurm."""

from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.pipeline import trainers


def trainer(*overrides: str) -> Trainer:
    return trainers.test_trainer(load_experiment("scala_digits", ["trainer.accelerator=cpu", *overrides]))


@pytest.mark.parametrize("several", ["devices=2", "devices='2'", "num_nodes=2", "strategy=ddp"])
def test_several_processes_do_not_broadcast_buffers(several):
    strategy = trainer(f"trainer.{several}").strategy
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs == {"broadcast_buffers": False, "gradient_as_bucket_view": True}
    assert strategy._timeout >= timedelta(days=7)  # a process without trials waits for those with some


@pytest.mark.parametrize(
    ("keys", "several"),
    [
        (["devices=auto"], True), (["devices=[0,1]"], True), (["devices='0,1'"], True), (["devices=[1]"], False),
        (["devices=1"], False), (["devices=auto", "accelerator=cpu"], False), (["accelerator=tpu"], False),
    ],
)  # fmt: skip
def test_auto_counts_the_processes(monkeypatch, keys, several):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    experiment = load_experiment("scala_digits", ["trainer.accelerator=auto", *(f"trainer.{key}" for key in keys)])
    assert isinstance(trainers._settings(experiment)["strategy"], DDPStrategy) == several


def test_one_process_has_no_strategy_of_ours():
    assert not isinstance(trainer().strategy, DDPStrategy)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_what_was_trained_in_another_precision_is_evaluated_in_single(precision):
    assert trainer(f"trainer.precision={precision}").precision == "32-true"


def test_what_lightning_refuses_is_one_line():
    with pytest.raises(UserError, match=r"^trainer: [^\n]+$"):
        trainer("trainer.devices=[3]")


def test_slurm_does_not_requeue_by_lightning(monkeypatch):
    assert trainers._cluster() == []
    job = dict(NTASKS="1", NTASKS_PER_NODE="1", JOB_NAME="job", NODEID="0", PROCID="0", LOCALID="0")
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    environment = trainer("trainer.strategy=ddp").strategy.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert trainers._cluster() == []
