"""Lightning trainers of a run: one a stage, one for the final evaluation."""

import os
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only

from lightning_vitc.callbacks import checkpoint
from lightning_vitc.callbacks.accuracy_figure import AccuracyFigure
from lightning_vitc.callbacks.progress import progress_bar
from lightning_vitc.callbacks.step_seed import StepSeed
from lightning_vitc.config import registry
from lightning_vitc.errors import RunFailure, UserError
from lightning_vitc.errors.failures import disk_error
from lightning_vitc.files.atomic import replace_atomically
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.last_checkpoint import LAST, PREVIOUS
from lightning_vitc.runs.metrics_file import MetricsFile
from lightning_vitc.runs.tensorboard import cleared_board
from lightning_vitc.schema import Experiment, TrainerConfig
from lightning_vitc.training.module import CompressionModule

# Of a process for another. While one trains stages of its own (`Stages.spread`) those that are done wait in a barrier,
# for as long as a training takes: torch would end them after 30 minutes. A process that dies breaks its connections,
# which is noticed at once.
LONGEST_WAIT = timedelta(days=7)
NOT_THERE = ("can not run on your system", "No supported gpu backend found", "torch_xla")  # Lightning, of accelerators


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, syncs it to disk and renames it: whole or not there.

    Of `last.ckpt` the one before is kept.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save tensors and primitives.

        Raises:
            RunFailure: where the disk does not take it.
        """
        path = Path(path)
        try:
            with replace_atomically(path, path.with_name(PREVIOUS) if path.name == LAST else None) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            if (failed := disk_error(error)) is None:
                raise
            raise RunFailure(
                f"{path}: cannot be written ({failed.strerror}); the checkpoint before it is whole, and the same "
                "command continues from there"
            ) from None


def stage_trainer(
    experiment: Experiment,
    directory: RunDirectory,
    stage: str,
    module: CompressionModule,
    *,
    epochs: int | None = None,
    resumed_at: int | None = None,
    validate: bool = True,
    alone: bool = False,
) -> Trainer:
    """The trainer of a stage, with its loggers, checkpoints and those callbacks of the experiment that serve it.

    Args:
        experiment: of the run.
        directory: of the run.
        stage: its name.
        module: what will be trained.
        epochs: instead of `trainer.max_epochs`.
        resumed_at: optimizer steps done in the checkpoint to continue from; logs of later ones are dropped.
        validate: whether to look at the validation split.
        alone: in this process only, whatever the others do; only the first one logs.
    """
    settings = _settings(experiment)
    if alone:
        settings |= _of_one_process(settings["accelerator"], settings["devices"])
    if epochs is not None:
        settings["max_epochs"] = epochs
    if not validate:
        settings["limit_val_batches"] = 0
    logs = not alone or getattr(rank_zero_only, "rank", 0) == 0
    callbacks: list[Callback] = [StepSeed(experiment.seed, stage), *_callbacks_of(experiment, module), AccuracyFigure()]
    if logs:
        callbacks.append(LearningRateMonitor("step"))
    if settings["enable_progress_bar"]:
        callbacks.append(progress_bar(stage))
        settings["enable_progress_bar"] = isinstance(callbacks[-1], ProgressBar)
    return _trainer(
        **settings, callbacks=callbacks, logger=_loggers(directory, stage, resumed_at) if logs else False,
        plugins=[DurableCheckpointIO(), *([] if alone else _cluster())], default_root_dir=directory.stage(stage),
    )  # fmt: skip


def test_trainer(experiment: Experiment, **options: Any) -> Trainer:
    """A trainer that only evaluates: in single precision, as exported networks compute, however they were trained.

    Args:
        experiment: of the run.
        options: instead of those of its `trainer:`.
    """
    settings = _settings(experiment) | {"enable_progress_bar": False, "precision": "32-true"} | options
    return _trainer(**settings, logger=False, enable_checkpointing=False, plugins=_cluster())


def check_trainer(experiment: Experiment) -> None:
    """Refuse arguments that Lightning's Trainer refuses, such as an accelerator that is not there.

    Raises:
        UserError: in Lightning's words, most often.
    """
    if experiment.trainer.profiler == "xla" and find_spec("torch_xla") is None:
        raise UserError("trainer.profiler: xla needs torch_xla, which is not installed; simple and advanced do not")
    _trainer(**_settings(experiment), logger=False, enable_checkpointing=False, plugins=_cluster())


def _trainer(**options: Any) -> Trainer:
    try:
        return Trainer(**options, use_distributed_sampler=False)
    except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        if any(sign in text for sign in NOT_THERE):
            wanted = options["accelerator"]
            raise UserError(f"trainer.accelerator: there is no {wanted} here; auto takes what there is") from error
        raise UserError(f"trainer: {text}") from error


def _cluster() -> list[SLURMEnvironment]:
    """In a Slurm job: Lightning's environment without its own requeue; torchrun within a job comes first."""
    in_job = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if in_job else []


def _loggers(directory: RunDirectory, stage: str, resumed_at: int | None) -> list[Logger]:
    metrics = MetricsFile(directory.path, stage)
    metrics.forget_from(resumed_at or 0)
    if resumed_at is None:
        return [cleared_board(directory.path, stage), metrics]
    board = TensorBoardLogger(
        directory.path, name="tensorboard", version=stage, default_hp_metric=False, purge_step=resumed_at
    )
    return [board, metrics]


def _callbacks_of(experiment: Experiment, module: CompressionModule) -> list[Callback]:
    chosen = {"checkpoint": checkpoint.Arguments(), **experiment.callbacks}  # a stage is always saved
    made = [registry.load_callback(name)(**vars(arguments)) for name, arguments in chosen.items()]
    return [callback for callback in made if getattr(callback, "serves", lambda _: True)(module)]


def _settings(experiment: Experiment) -> dict[str, Any]:
    settings = dict(vars(experiment.trainer))
    del settings["compile"]  # ours, done by the backbone
    if settings["strategy"] == "ddp" or processes_of(experiment.trainer) > 1:
        # Buffers are equal on all ranks by construction: broadcasting them at every step would only cost time.
        settings["strategy"] = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True, timeout=LONGEST_WAIT)
    if settings["max_epochs"] is None:
        settings["max_epochs"] = -1 if settings["max_steps"] != -1 else None
    return settings


def _of_one_process(accelerator: str, devices: Any) -> dict[str, Any]:
    """Settings of a trainer that is alone: on this process's own device."""
    own: Any = 1
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        local_rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        own = [devices[local_rank] if isinstance(devices, list) else local_rank]
    return {"strategy": "auto", "num_nodes": 1, "devices": own}


def processes_of(trainer: TrainerConfig) -> int:
    """How many processes `strategy: auto` means; Lightning alone knows those of a TPU."""
    if trainer.accelerator == "tpu":
        return 1
    devices: int | str | list[int] = trainer.devices
    if devices == "auto":
        devices = torch.cuda.device_count() if trainer.accelerator in ("auto", "gpu", "cuda") else 1
    elif isinstance(devices, str):  # "2" counts devices, "0,1" names them
        devices = len(devices.split(",")) if "," in devices else int(devices)
    count = len(devices) if isinstance(devices, list) else int(devices)
    return trainer.num_nodes * max(count, 1)
