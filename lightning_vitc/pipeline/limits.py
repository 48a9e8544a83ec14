"""Lightning's limits on batches, and what of them leaves nothing: refused before anything is trained."""

from typing import TYPE_CHECKING

from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.batch_statistics import batch_norms
from lightning_vitc.pipeline.trainers import processes_of
from lightning_vitc.schema import TrainerConfig

if TYPE_CHECKING:
    from lightning_vitc.pipeline.pipeline import Pipeline

LIMITS = {
    "train": ("limit_train_batches", "overfit_batches"), "val": ("limit_val_batches", "overfit_batches"),
    "test": ("limit_test_batches",),
}  # fmt: skip
"""By the loader that they are a share of."""


def check_limits(run: "Pipeline") -> None:
    """Refuse data of which nothing can be learned, or of which the limits leave no batch.

    Raises:
        UserError: for a single class, a batch that is larger than the training set, a share of the batches that comes
            to none, or a validation after more batches than an epoch has.
    """
    if run.data.num_classes < 2:
        raise UserError(f"data.root: {run.experiment.data.root} has one class; a classifier needs two or more")
    trainer = run.experiment.trainer
    stages = [run.data, run.teacher_recipe()[0]] if _limits(trainer) and run.experiment.teacher.train else [run.data]
    for data in stages:
        counts = data.batch_counts(processes_of(trainer))
        for loader, keys in LIMITS.items():
            for key in keys:
                must_leave_a_batch(key, getattr(trainer, key), counts[loader], loader)
        _must_come_to_validation(trainer, counts["train"])


def must_leave_a_batch(key: str, limit: float | None, batches: int, loader: str) -> None:
    """Refuse a share of the batches that comes to none of them, as Lightning rounds: down.

    Args:
        key: of `trainer:`.
        limit: its value; of a whole number, which counts batches, 0 is for none.
        batches: of the loader in an epoch.
        loader: `train`, `val` or `test`.
    """
    if isinstance(limit, float) and limit > 0 and int(limit * batches) == 0:
        there = f"the {batches} {loader} batches is" if batches > 1 else f"the one {loader} batch is"
        raise UserError(f"trainer.{key}: {limit:g} of {there} less than one; give a number of batches, such as 1")


def check_batch_norms(run: "Pipeline") -> None:
    """Refuse batches of one image, of which batch norms have no statistics.

    Raises:
        UserError: for a batch that leaves a process, or a part of its step, one image, and for images of which one is
            left for the last batch.
    """
    if not batch_norms(run.template):
        return
    trainer, teacher = run.experiment.trainer, run.experiment.teacher
    processes = processes_of(trainer)
    parts = processes * trainer.accumulate_grad_batches
    for section, data in (("data", run.data), *([("teacher", run.teacher_recipe()[0])] if teacher.train else [])):
        size, needs = data.config.batch_size, f"and the batch norms of {run.dense_spec.name} need two or more"
        if size < 2 * parts:
            key = "data" if section == "teacher" and teacher.batch_size is None else section
            raise UserError(
                f"{key}.batch_size: {size} is a batch of one image in each part of the step, {needs}; "
                f"at least {2 * parts}"
            )
        if data.smallest_batch(processes) < 2:
            raise UserError(
                f"data.num_samples: in batches of {size} the last one has one image in each part of the step, {needs}; "
                "leave some out, or take more"
            )


def _limits(trainer: TrainerConfig) -> bool:
    """Whether a stage on other batches could be refused where the last one is not."""
    shares = [getattr(trainer, key) for keys in LIMITS.values() for key in keys]
    return isinstance(trainer.val_check_interval, int) or any(isinstance(share, float) and share for share in shares)


def _must_come_to_validation(trainer: TrainerConfig, batches: int) -> None:
    interval = trainer.val_check_interval
    if not isinstance(interval, int) or trainer.check_val_every_n_epoch is None or trainer.limit_val_batches == 0:
        return
    limit = trainer.overfit_batches or trainer.limit_train_batches
    if limit is not None:
        batches = min(limit, batches) if isinstance(limit, int) else int(limit * batches)
    if interval > batches:
        raise UserError(
            f"trainer.val_check_interval: {interval} is more than the {counted(batches, 'train batch')} of an epoch; "
            "give a smaller number, or trainer.check_val_every_n_epoch=null to count over epochs"
        )
