"""The sections `trainer` and `slurm`."""

import re
from dataclasses import dataclass, field
from typing import Literal

from lightning_vitc.schema.fields import batches, bounded, is_devices, is_one_line, one_line, rule, some_batches


@dataclass
class TrainerConfig:
    """Lightning's Trainer, key by key, and `compile`. Loggers, callbacks, plugins and the sampler are set elsewhere."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    strategy: Literal["auto", "ddp"] = "auto"  # auto: ddp where there are several processes
    devices: int | str | list[int] = field(
        default="auto",
        metadata=rule('a number > 0, "auto", a list of device numbers or a string like "0,1"', is_devices),
    )
    num_nodes: int = bounded(1, gt=0)
    precision: Literal[
        "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "32", "16", "bf16", "64"
    ] = "32-true"  # fmt: skip
    compile: bool | Literal["blocks", "whole"] = field(  # train by graphs: of a block that all share, or of everything
        default=False, metadata=rule("false, blocks or whole", lambda v: v is not True)
    )
    max_epochs: int | None = bounded(None, gt=0)
    min_epochs: int | None = bounded(None, gt=0)
    max_steps: int = field(
        default=-1, metadata=rule("a number of steps > 0, or -1 for no limit", lambda v: v > 0 or v == -1)
    )
    min_steps: int | None = bounded(None, gt=0)
    max_time: str | None = field(
        default=None,
        metadata=rule(
            "a time > 0 as DD:HH:MM:SS",
            lambda v: bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", v)) and bool(re.search("[1-9]", v)),
        ),
    )
    limit_train_batches: int | float | None = some_batches()
    limit_val_batches: int | float | None = batches(None)
    limit_test_batches: int | float | None = some_batches()
    overfit_batches: int | float = batches(0.0)
    val_check_interval: int | float | None = some_batches()
    check_val_every_n_epoch: int | None = bounded(1, gt=0)
    num_sanity_val_steps: int = bounded(0, ge=-1)
    log_every_n_steps: int = bounded(50, gt=0)
    enable_progress_bar: bool = True
    enable_model_summary: bool = False
    accumulate_grad_batches: int = bounded(1, gt=0)
    gradient_clip_val: float | None = bounded(None, gt=0)
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    inference_mode: bool = True
    profiler: Literal["simple", "advanced", "pytorch", "xla"] | None = None
    detect_anomaly: bool = False
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = bounded(0, ge=0)


@dataclass
class SlurmConfig:
    """What `vitc slurm` writes into the batch script."""

    nodes: int = bounded(1, gt=0)
    gpus_per_node: int = bounded(1, ge=0)  # 0: one CPU process a node
    cpus_per_task: int = bounded(8, gt=0)
    time: str = "24:00:00"
    account: str | None = one_line()
    partition: str | None = one_line()
    constraint: str | None = one_line()
    mem: str | None = one_line()
    qos: str | None = one_line()
    reservation: str | None = one_line()
    exclude: str | None = one_line()  # nodes that are not taken
    mail_user: str | None = one_line()  # an address
    mail_type: str | None = one_line()  # when a mail is sent, e.g. END,FAIL
    extra: list[str] = field(  # further options of sbatch, e.g. "--gres=gpu:a100:4"
        default_factory=list,
        metadata=rule(
            "a list of options of sbatch of one line, such as --gres=gpu:4",
            lambda v: all(is_one_line(option) and option.startswith("-") for option in v),
        ),
    )
    signal_seconds: int = bounded(120, gt=0)  # before the time limit, to save and be requeued
    setup: list[str] = field(  # shell lines before `srun`, e.g. "module load cuda"
        default_factory=list,
        metadata=rule("a list of strings of one line", lambda v: all(map(is_one_line, v))),
    )
