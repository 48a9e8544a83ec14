"""`vitc train`: run a whole experiment, or continue it."""

import logging
import os
import time
import warnings

import torch
from lightning.pytorch.utilities import rank_zero_only

from lightning_vitc.config import registry
from lightning_vitc.config.sources import flat
from lightning_vitc.errors import UserError
from lightning_vitc.pipeline import results
from lightning_vitc.pipeline.finished import pick, store_networks
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.planning import budget_of
from lightning_vitc.pipeline.processes import part, say
from lightning_vitc.pipeline.start import startable
from lightning_vitc.pipeline.trainers import check_trainer
from lightning_vitc.runs.class_record import write_record
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.runs.image_record import images_in_words, write_images
from lightning_vitc.runs.last_checkpoint import LAST, PREVIOUS
from lightning_vitc.schema import Experiment
from lightning_vitc.training.interruption import between_stages

QUIET = (
    "The '.*dataloader' does not have many workers",
    "Found .* module\\(s\\) in eval mode at the start of training",  # networks evaluated in an earlier stage
    "Checkpoint directory .* exists and is not empty",  # the run continues
    "You're resuming from a checkpoint that ended before the epoch ended",  # the loader continues there
    "The number of training batches",
    "This DataLoader will create .* worker processes",
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "Initializing zero-element tensors is a no-op",  # a compressed block may keep no hidden unit
    "`broadcast_buffers` is deprecated",  # its successor is not in every torch we support
    "The `srun` command is available on your system but is not used",  # `vitc slurm` uses it
    "It is recommended to use .* sync_dist=True",  # torchmetrics has done that
)


@between_stages()
def train(experiment: Experiment, fresh: bool = False) -> None:
    """Run every stage of the experiment that is not finished, then write and print the result.

    Args:
        experiment: what to run.
        fresh: delete the run there is and start over.

    Raises:
        UserError: where it cannot be run; a run that was not there before has then left no files.
    """
    hush()
    directory = RunDirectory.of(experiment)
    _must_continue(directory)
    fresh = fresh and not _is_restarted()  # the same command again, by Slurm: what it has done since is not deleted
    if is_over := directory.is_complete() and not fresh:
        directory.read_result()  # damaged, it is refused before anything is said of it
    pipeline = None if is_over else _checked(experiment, directory, fresh)
    if _is_rank_zero():
        directory.open(experiment, fresh)
    try:
        if fresh and pipeline is not None:
            pipeline.processes.wait()  # or another rank might still read what the first one deletes
        if pipeline is None or directory.is_complete():
            say(f"{directory.path} is complete (use --fresh to start over)")
        else:
            _run(pipeline)
        if _is_rank_zero():
            _show(directory)
    except UserError:
        directory.withdraw()
        raise
    finally:
        directory.close()
        part()


def _must_continue(directory: RunDirectory) -> None:
    """A Slurm job that was started again has a checkpoint, or it would silently start over."""
    saved = {file.name for file in directory.path.glob("checkpoints/*/*.ckpt")} & {LAST, PREVIOUS}
    if _is_restarted() and not saved and not directory.is_complete():
        raise UserError(
            f"{directory.path}: this Slurm job was restarted ({os.environ['SLURM_RESTART_COUNT']}), and there is no "
            "checkpoint to continue from; submit it anew to start over"
        )


def _is_restarted() -> bool:
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def hush() -> None:
    """Keep Lightning's remarks about itself out of the output."""
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _checked(experiment: Experiment, directory: RunDirectory, fresh: bool) -> Pipeline:
    """The pipeline of an experiment that can start: refused before anything is written or trained."""
    check_trainer(experiment)
    pipeline = startable(experiment, directory, fresh=fresh, measure=_is_rank_zero())
    if experiment.threads is not None:
        torch.set_num_threads(experiment.threads)
    return pipeline


def _run(pipeline: Pipeline) -> None:
    experiment, directory = pipeline.experiment, pipeline.directory
    if _is_rank_zero():
        write_record(directory, pipeline.data.classes)
        write_images(directory, pipeline.data)
    say(images_in_words(pipeline.data))
    if experiment.data.num_samples is not None and _is_rank_zero():
        pipeline.data.save_subset(directory.path / "subset.json")
    registry.load_method(experiment.method_name).pipeline(pipeline)
    started = time.monotonic()
    pipeline.tell("with the evaluation; all stages are finished")
    dense, rows = pipeline.rows()
    chosen = _chosen(pipeline)  # by all processes together, as what they read was decided
    seconds = sum(pipeline.seconds.values()) + time.monotonic() - started
    if not _is_rank_zero():
        return
    document = results.result_document(
        experiment=experiment.name, method=experiment.method_name, seed=experiment.seed,
        seconds=seconds, dense=dense, rows=rows, device=pipeline.device, split=pipeline.data.evaluation_split,
        images=pipeline.images, left_out=pipeline.left_out, counts=pipeline.data.counts, classes=pipeline.data.classes,
        budget=budget_of(experiment) | chosen,
    )  # fmt: skip
    results.write_picture(directory.path, document)
    results.log_to_tensorboard(directory.path, document, flat(experiment.to_container()))
    results.write_architectures(directory.path, pipeline.networks, pipeline.dense_spec)
    store_networks(pipeline)
    results.write_result(directory.result, document)


def _chosen(pipeline: Pipeline) -> dict[str, str]:
    """The network that a budget of latency chooses from several, by which `vitc export` goes."""
    if pipeline.experiment.budget.latency_ms is None:
        return {}
    return {"network": pick(pipeline, None, pipeline.directory.path).name}


def _show(directory: RunDirectory) -> None:
    results.print_table(directory.read_result())
    pictures = sorted(path.name for path in directory.path.glob("*.png"))
    for name in ("result.json", *pictures, "tensorboard"):
        say(f"  {directory.path / name}")


def _is_rank_zero() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0
