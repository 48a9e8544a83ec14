"""Stages of a run, each resumed where it stopped.

A stage that is finished is loaded instead of trained, so running them again continues the run.
"""

import platform
import time
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from lightning_vitc.data import VisionData
from lightning_vitc.errors import RunFailure, UserError
from lightning_vitc.files.checkpoint import read_checkpoint
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.weights.strict import load_strictly, must_fit
from lightning_vitc.pipeline.processes import Processes, say
from lightning_vitc.pipeline.trainers import stage_trainer
from lightning_vitc.runs.directory import RunDirectory, read_json, write_json
from lightning_vitc.runs.last_checkpoint import LAST, drop_previous, must_be_whole, place_in, settle
from lightning_vitc.runs.tensor_record import SUFFIX, read_tensors, write_tensors
from lightning_vitc.schema import Experiment
from lightning_vitc.training.finite_loss import NotFinite
from lightning_vitc.training.module import CompressionModule

Selection = Literal["best", "last"]
Module = TypeVar("Module", bound=CompressionModule)


class Stages:
    """What trains, decides and remembers.

    Args:
        experiment: what to run.
        directory: of the run.
        read_only: load finished stages and refuse to train others.
    """

    data: VisionData

    def __init__(self, experiment: Experiment, directory: RunDirectory, read_only: bool = False):
        self.experiment, self.directory, self.read_only = experiment, directory, read_only
        self.seconds: dict[str, float] = {}  # that the training of each stage took
        self._has_told = False  # where it goes on

    def fit(
        self, stage: str, build: Callable[[], Module], epochs: int | None = None, select: Selection = "best",
        data: VisionData | None = None, validate: bool = True, alone: bool = False,
    ) -> Module:  # fmt: skip
        """Train the module that `build` makes, or load it where the stage is finished.

        Args:
            stage: its name.
            build: makes the module; called after the stage has been seeded.
            epochs: instead of `trainer.max_epochs`.
            select: end with the weights that were `best` in validation, or with the `last` ones.
            data: instead of the experiment's.
            validate: whether to look at the validation split, and its labels.
            alone: in this process only, see `spread`.

        Raises:
            UserError: where the stage is not finished and the pipeline is read-only.
        """
        folder = self.directory.stage(stage)
        finished = (folder / "done.json").exists()
        if self.read_only and not finished:
            raise UserError(
                f"{self.directory.path}: the stage {stage!r} is not finished; continue it with 'vitc train'"
            )
        seed_everything(zlib.crc32(f"{stage} {self.experiment.seed}".encode()), verbose=False)
        module = build()
        for network in module.modules():
            if isinstance(network, Backbone):
                network.set_grad_checkpointing(self.experiment.model.grad_checkpointing)
                network.set_compiled(self.experiment.trainer.compile)
        if not finished:
            trains = dict(epochs=epochs, validate=validate, alone=alone)
            self._train(stage, module, select, data or self.data, **trains)
        load_selected(module, folder)
        self.seconds[stage] = read_json(folder / "done.json").get("seconds", 0.0)
        return module

    def spread(self, stages: Mapping[str, Callable[[], Module]]) -> list[Module]:
        """Independent stages, spread over the processes of the run; each ends with its last weights, not validated.

        What a stage computes does not depend on how many processes there are: it runs in one of them, on whole
        batches.
        """
        train = partial(self.fit, select="last", validate=False, alone=True)
        if self.read_only:
            return [train(stage, build) for stage, build in stages.items()]
        share = list(stages)[self.processes.rank :: self.processes.count]
        mine = {stage: train(stage, stages[stage]) for stage in share}
        self.processes.wait()
        return [mine[stage] if stage in mine else train(stage, build) for stage, build in stages.items()]

    def record(self, name: str, decide: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A decision, made once by the first process and kept as `<name>.json` in the run.

        Raises:
            UserError: where it is not made and the pipeline is read-only.
        """
        file = self.directory.path / f"{name}.json"
        if self.read_only and not file.exists():
            raise UserError(f"{self.directory.path}: {file.name} is not there; continue the run with 'vitc train'")
        if not file.exists() and self.processes.rank == 0:
            write_json(file, decide())
        if not self.read_only:
            self.processes.wait()
        return read_json(file)

    def computed(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that all processes compute together, once, without training; kept as `<name>.safetensors`.

        Args:
            name: of the file, and of the record of it.
            compute: gives the same in every process.

        Raises:
            UserError: where they are not there and the pipeline is read-only, or are damaged.
        """
        file, made = self.directory.path / f"{name}{SUFFIX}", {}
        if not self._is_recorded(file.with_suffix(".json")):
            self.tell(f"at the beginning of {name}, which is computed without training")
            started = time.monotonic()
            tensors = compute()
            self.seconds[name] = time.monotonic() - started
            made = write_tensors(file, tensors) if self.processes.rank == 0 else {}
        made = self.record(name, lambda: {**made, "seconds": round(self.seconds[name], 3)})
        self.seconds[name] = made["seconds"]
        return read_tensors(file, made)

    @cached_property
    def processes(self) -> Processes:
        """The processes of the run, started if they are not."""
        return Processes(self.experiment)

    @property
    def device(self) -> str:
        """Where the run computes, for the record."""
        return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"

    def _train(
        self, stage: str, module: CompressionModule, select: Selection, data: VisionData, **options: Any
    ) -> None:
        folder = self.directory.stage(stage)
        last = folder / LAST if self._settled(folder, alone=options["alone"]) else None
        resumed_at = None
        if last is None:
            self.tell(f"at the beginning of stage {stage}, of which there is no checkpoint")
        else:
            checkpoint = read_checkpoint(last)
            must_fit(module, checkpoint["state_dict"], str(last))
            resumed_at = checkpoint["global_step"]
            epochs = options["epochs"] or self.experiment.trainer.max_epochs
            self.tell(f"stage {stage} {place_in(checkpoint, epochs)}, from {last.relative_to(self.directory.path)}")
        trainer = stage_trainer(self.experiment, self.directory, stage, module, resumed_at=resumed_at, **options)
        try:
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
        except NotFinite as failure:
            raise RunFailure(
                f"stage {stage}, {failure}; the last checkpoint is whole; start over with --fresh or another run_name "
                "and a lower optimizer.lr, a lower trainer.gradient_clip_val or another trainer.precision"
            ) from None
        if not trainer.global_step and self.experiment.trainer.max_time is not None:
            raise UserError(
                f"trainer.max_time: {self.experiment.trainer.max_time} ended stage {stage} before a step; give it more"
            )
        if trainer.is_global_zero:
            drop_previous(folder)  # first: nobody returns to a stage that is marked
            _mark_done(folder, trainer, select)
        trainer.strategy.barrier()

    def _is_recorded(self, file: Path) -> bool:
        """Whether a record is there, or cannot be made any more: one process looks."""
        if self.read_only or self.processes.count == 1:
            return self.read_only or file.exists()
        return self.processes.decided_by_first(file.exists)

    def tell(self, where: str) -> None:
        """Say, of a run that continues, where that is: at the first thing that is not done yet."""
        if self.directory.is_continued and not self._has_told:
            say(f"{self.directory.path} continues {where}")
        self._has_told = True

    def _settled(self, folder: Path, alone: bool) -> bool:
        """Whether there is a checkpoint to continue from: one process looks, and all continue from the same."""
        if alone or self.processes.count == 1:
            return settle(folder)
        return self.processes.decided_by_first(lambda: settle(folder))


def load_selected(module: CompressionModule, folder: Path) -> None:
    """Load the weights a finished stage selected, and end evaluation-ready."""
    must_be_whole(file := selected_file(folder))
    load_strictly(module, module.of_today(read_checkpoint(file)["state_dict"]), str(file))
    module.eval()


def selected_file(folder: Path) -> Path:
    """The checkpoint of a finished stage whose weights count."""
    return folder / str(read_json(folder / "done.json", "weights")["weights"])


def _mark_done(folder: Path, trainer: Trainer, select: Selection) -> None:
    weights = "best.ckpt" if select == "best" and (folder / "best.ckpt").exists() else LAST
    seconds = trainer.checkpoint_callback.elapsed  # type: ignore[union-attr]
    summary = {"weights": weights, "steps": trainer.global_step, "epochs": trainer.current_epoch, "seconds": seconds}
    write_json(folder / "done.json", summary)
