"""Two processes over gloo draw the same widths, reduce once a step, and train what one process does."""

import json
import socket
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from lightning_vitc.backbone import Backbone, create_backbone
from lightning_vitc.budget.target import target_of
from lightning_vitc.callbacks.gate_freezing import GateFreezing
from lightning_vitc.callbacks.gate_staging import GateStaging
from lightning_vitc.callbacks.gumbel_temperature import GumbelTemperature
from lightning_vitc.callbacks.pruning_schedule import PruningSchedule
from lightning_vitc.callbacks.width_sampling import WidthSampling
from lightning_vitc.config import load_experiment
from lightning_vitc.data import VisionData
from lightning_vitc.dynamic.targets import targets_of
from lightning_vitc.errors import UserError
from lightning_vitc.methods.scala import Arguments as ScalaArguments
from lightning_vitc.methods.scala import Scala
from lightning_vitc.methods.usdc import USDC
from lightning_vitc.methods.usdc import Arguments as USDCArguments
from lightning_vitc.methods.uvc import UVC
from lightning_vitc.methods.uvc import Arguments as UVCArguments
from lightning_vitc.schema import BudgetConfig, DataConfig, OptimizerConfig
from lightning_vitc.training import trainers
from lightning_vitc.training.module import CompressionModule
from lightning_vitc.training.teacher import Teacher

# The trainer


def trainer(*overrides: str) -> Trainer:
    return trainers.test_trainer(load_experiment("scala_digits", ["trainer.accelerator=cpu", *overrides]))


@pytest.mark.parametrize("several", ["devices=2", "devices='2'", "num_nodes=2", "strategy=ddp"])
def test_several_processes_do_not_broadcast_buffers(several):
    strategy = trainer(f"trainer.{several}").strategy
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs == {"broadcast_buffers": False, "gradient_as_bucket_view": True}


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


# The command


def accuracies(run: Path) -> list[dict[str, Any]]:
    document = json.loads((run / "result.json").read_text())
    return [document["dense"], *document["rows"]]


def best_weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / stage / "best.ckpt", weights_only=True)["state_dict"]


def launch(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user runs it: Lightning starts the second process by the words of the first."""
    command = [str(Path(sys.executable).with_name("vitc")), *arguments, "trainer.devices=2", "trainer.strategy=ddp"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_two_processes_train_what_one_does(vitc, tiny, read_metrics):
    """Both stages. Losses agree to rounding; weights as far as Adam lets them: where a gradient is nothing but
    rounding, as that of the keys' biases, its steps are of the size of the learning rate."""
    arguments = ("train", "scala_digits", *tiny, "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
    one = vitc(*arguments, "run_name=one")
    assert one.code == 0, one.error
    two = launch(vitc.place, *arguments)
    assert two.returncode == 0, two.stderr
    assert "Warning" not in two.stderr
    assert two.stdout.count(" width_0.25 ") == 1
    alone, run = (vitc.place / "runs" / "scala_digits" / name for name in ("one", "default"))
    assert accuracies(run) == accuracies(alone)
    for line, expected in zip(read_metrics(run), read_metrics(alone), strict=True):
        assert line.keys() == expected.keys()  # the same widths were drawn
        assert line == {key: pytest.approx(value, abs=1e-5) for key, value in expected.items()}
    for stage in ("dense", "scala"):
        weights, others = best_weights(run, stage), best_weights(alone, stage)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, others[name], rtol=0, atol=2e-4)
    again = launch(vitc.place, *arguments)
    assert again.returncode == 0, again.stderr
    assert "is complete" in again.stdout


# The step

RANK = """
import json, os, sys
os.environ.update(environment)
sys.path.insert(0, os.path.dirname(result))
import this_file
watch = this_file.Watch()
weights = this_file.fit(method, watch, devices=2, strategy="ddp")
with open(result, "w") as file:
    json.dump({"controls": watch.controls, "reductions": watch.reductions, "weights": weights}, file)
"""


class Watch(Callback):
    """Notes what is drawn in every step, and how often gradients are reduced in it."""

    def __init__(self) -> None:
        self.reductions: list[int] = []
        self.controls: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        def hook(state, bucket):  # DDP wants its own annotations or none
            self.reductions[-1] += 1
            return allreduce_hook(state, bucket)

        trainer.strategy.model.register_comm_hook(None, hook)

    def on_train_batch_start(self, *_: Any) -> None:
        self.reductions.append(0)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if isinstance(pl_module, Scala):
            self.controls.append(str(pl_module.widths))
        elif isinstance(pl_module, USDC):  # each rank has images of its own; the networks are chosen alike
            self.controls.append(str([pl_module.gates.architecture.tolist(), pl_module.gates.chosen.tolist()]))
        else:
            self.controls.append(str(pl_module._sampled_gates().tolist()))


SGD = OptimizerConfig(name="momentum", lr=1e-2)


def scala(network: Backbone) -> tuple[CompressionModule, list[Callback]]:
    return Scala(network, SGD, None, ScalaArguments(granularity=0.125)), [WidthSampling(seed=1)]


def uvc(network: Backbone) -> tuple[CompressionModule, list[Callback]]:
    """Two steps of warm-up, pruning from then on, gates that move in every step."""
    budget = BudgetConfig(macs="40%")
    keys = UVCArguments(gate_every=1, gate_lr=0.3)
    teacher = Teacher(deepcopy(network), 10)
    module = UVC(network, SGD, teacher, keys, budget, target_of(budget, network.spec, "uvc"), seed=1)
    return module, [PruningSchedule(0.2, 0.7), GateStaging(0.3, 0.9), GumbelTemperature(2.0, 0.5)]


def usdc(network: Backbone) -> tuple[CompressionModule, list[Callback]]:
    """Groups of eight images, which lie within a process whether there are one or two; gates that disagree."""
    keys = USDCArguments(grouping="avg-8", gate_lr=0.05, architecture_lr=0.1, gamma=5.0)
    budget, teacher = BudgetConfig(macs="60%"), Teacher(deepcopy(network), 10)
    module = USDC(network, SGD, teacher, keys, budget, targets_of(budget, network.spec, True, True), seed=1)
    return module, [PruningSchedule(0.1, 0.7), GateFreezing(0.5), GumbelTemperature(5.0, 0.5)]


def fit(method: str, *callbacks: Callback, **options: Any) -> dict[str, list[Any]]:
    """Eight steps of SGD, which are as exact as their gradients; all that is state at the end."""
    torch.manual_seed(5)
    network = create_backbone(
        "deit_tiny_distilled_patch16_224", img_size=8, patch_size=4, in_chans=1, embed_dim=48, depth=2, num_heads=6,
        num_classes=10,
    )  # fmt: skip
    module, own = {"scala": scala, "uvc": uvc, "usdc": usdc}[method](network)
    config = DataConfig(name="digits", batch_size=32, num_samples=128, no_aug=True, mean=[0.5], std=[0.5])
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, limit_val_batches=0, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[*own, *callbacks], **options,
    )  # fmt: skip
    trainer.fit(module, VisionData(config, img_size=8, in_chans=1))
    return {name: value.tolist() for name, value in module.state_dict().items() if value.is_floating_point()}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scala", "uvc", "usdc"])
def test_ranks_draw_alike_and_reduce_once_a_step(fork, tmp_path, method):
    (tmp_path / "this_file.py").symlink_to(__file__)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = dict(NODE_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    files = [tmp_path / "0.json", tmp_path / "1.json"]
    ranks = [
        fork(RANK, environment=common | {"LOCAL_RANK": str(rank)}, result=str(file), method=method)
        for rank, file in enumerate(files)
    ]
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    one, two = (json.loads(file.read_text()) for file in files)
    assert one["controls"] == two["controls"]
    assert len(set(one["controls"])) > 3
    assert one["reductions"] == two["reductions"] == [1] * 8
    assert one["weights"] == two["weights"]
    for name, weight in fit(method).items():
        torch.testing.assert_close(torch.tensor(one["weights"][name]), torch.tensor(weight), rtol=0, atol=1e-6)
