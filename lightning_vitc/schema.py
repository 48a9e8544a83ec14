"""The sections of an experiment, typed.

Every key a YAML or the command line may set is a field here, in `methods/<name>.py` (the arguments of a
method) or in `callbacks/<name>.py` (the arguments of a callback). Nothing here imports torch: a mistake in
a config is answered before any heavy import.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MISSING: Any = "???"  # OmegaConf's mark of a value that must be given; not imported, to keep this file light


def bounded(default: Any, *, ge: float | None = None, gt: float | None = None,
            le: float | None = None, lt: float | None = None) -> Any:  # fmt: skip
    """A number with a range: `bounded(0.1, ge=0, lt=1)`. Checked after merging, for values that are set."""
    given = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    limits = {name: limit for name, limit in given.items() if limit is not None}
    return field(default=default, metadata=limits)


def rule(expected: str, check: Callable[[Any], bool]) -> dict[str, Any]:
    """Metadata of a field whose values have a rule of their own; `expected` completes "lr: 3 is not ..."."""
    return {"check": check, "expected": expected}


def _weights(default: bool) -> Any:
    """`pretrained`: from the hub or from a file that holds weights."""
    expected = "true, false or the path of a .safetensors, .pth, .pt or .bin file"
    suffixes = (".safetensors", ".pth", ".pt", ".bin")
    check = rule(expected, lambda v: isinstance(v, bool) or v.lower().endswith(suffixes))
    return field(default=default, metadata=check)


def is_directory_name(name: str) -> bool:
    """Whether `model.name` is the path of a compressed model; names of timm have no slash."""
    return "/" in name


def _batches(default: float | None) -> Any:
    """Lightning's limits: an integer counts batches, a float is a fraction of them."""
    expected = "a number of batches (an integer >= 0) or a fraction in [0, 1]"
    check = rule(expected, lambda v: v >= 0 and (isinstance(v, int) or v <= 1))
    return field(default=default, metadata=check)


def _some_batches() -> Any:
    """The same where none at all makes no sense."""
    expected = "a number of batches (an integer > 0) or a fraction in (0, 1]"
    check = rule(expected, lambda v: v > 0 and (isinstance(v, int) or v <= 1))
    return field(default=None, metadata=check)


def _file_name(default: str) -> Any:
    """A name that becomes a directory."""
    pattern = re.compile(r"[^/\\\s.-][^/\\\s]*")  # neither hidden, nor "..", nor taken for an option
    check = rule("a name without slashes and blanks", lambda v: bool(pattern.fullmatch(v)))
    return field(default=default, metadata=check)


def _is_devices(value: Any) -> bool:
    if isinstance(value, str):
        return value == "auto" or bool(re.fullmatch(r"\d+(,\d+)*", value))
    if isinstance(value, list):
        return bool(value) and min(value) >= 0 and len(set(value)) == len(value)
    return value > 0


@dataclass
class ModelConfig:
    """A timm Vision Transformer, or the directory of one that was compressed.

    Keys that are left out keep the value of the named model. A compressed one, which is an exported directory or a
    finished run, takes only `img_size`, `new_head` and the rates of dropping.
    """

    name: str = MISSING
    new_head: bool = False  # a new classifier, also where the number of classes is the same
    pretrained: bool | str = _weights(False)  # false, true (the hub) or the path of a file
    img_size: int | None = bounded(None, gt=0)
    patch_size: int | None = bounded(None, gt=0)
    in_chans: int | None = bounded(None, gt=0)
    embed_dim: int | None = bounded(None, gt=0)
    depth: int | None = bounded(None, gt=0)
    num_heads: int | None = bounded(None, gt=0)
    mlp_ratio: float | None = bounded(None, gt=0)
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    init_values: float | None = bounded(None, gt=0)
    class_token: bool | None = None
    reg_tokens: int | None = bounded(None, ge=0)
    no_embed_class: bool | None = None
    global_pool: Literal["token", "avg"] | None = None
    drop_rate: float | None = bounded(None, ge=0, lt=1)
    proj_drop_rate: float | None = bounded(None, ge=0, lt=1)
    attn_drop_rate: float | None = bounded(None, ge=0, lt=1)
    drop_path_rate: float | None = bounded(None, ge=0, lt=1)


@dataclass
class DataConfig:
    """A data set, how it is split, augmented and loaded."""

    name: Literal[
        "digits", "glyphs", "fake", "folder", "imagenet", "cifar10", "cifar100", "flowers102", "pets"
    ] = MISSING  # fmt: skip
    root: str | None = None  # where the files are, for data sets that have files
    batch_size: int = bounded(128, gt=0)  # images per optimizer step, over all processes and accumulation
    eval_batch_size: int | None = bounded(None, gt=0)  # images per process; default: as in training
    num_workers: int = bounded(0, ge=0)
    pin_memory: bool = True  # used where there is a GPU
    num_classes: int | None = bounded(None, gt=0)  # `fake` and `glyphs`; others know theirs
    num_samples: int | None = bounded(None, gt=0)  # training images: size of `fake`/`glyphs`, subset of others
    few_shot: bool = False  # draw `num_samples` training images by seed, stored as an index list in the run
    balanced: bool = True  # few-shot images of every class alike; false: any, no label is read
    val_fraction: float | None = bounded(None, gt=0, lt=1)  # of training, held out where no split is given (0.1)
    on_error: Literal["raise", "skip"] = "raise"  # an unreadable image
    # Augmentation, timm's names
    no_aug: bool = False
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333333333333333])
    hflip: float = bounded(0.5, ge=0, le=1)
    color_jitter: float | None = bounded(None, ge=0)
    auto_augment: str | None = None
    re_prob: float = bounded(0.0, ge=0, le=1)
    interpolation: Literal["bilinear", "bicubic", "nearest", "random"] | None = None  # default: the model's
    crop_pct: float | None = bounded(None, gt=0, le=1)  # default: the model's; 1 for digits, glyphs and CIFAR
    mean: list[float] | None = None  # default: the model's
    std: list[float] | None = None
    mixup: float = bounded(0.0, ge=0)
    cutmix: float = bounded(0.0, ge=0)
    mixup_prob: float = bounded(1.0, ge=0, le=1)
    smoothing: float = bounded(0.0, ge=0, lt=1)


@dataclass
class OptimizerConfig:
    """AdamW without decay on biases, norms and tokens; linear warm-up, then cosine, per step."""

    name: str = "adamw"  # any name of timm.optim
    lr: float = bounded(MISSING, gt=0)
    weight_decay: float = bounded(0.05, ge=0)
    betas: list[float] = field(
        default_factory=lambda: [0.9, 0.999],
        metadata=rule("two numbers >= 0 and < 1", lambda v: len(v) == 2 and min(v) >= 0 and max(v) < 1),
    )
    eps: float = bounded(1e-8, gt=0)
    warmup_epochs: float = bounded(0.0, ge=0)
    warmup_lr: float = bounded(1e-6, ge=0)
    min_lr: float = bounded(1e-5, ge=0)


@dataclass
class TeacherConfig:
    """Where the teacher comes from: one of `train`, `run` and `model`, or none of them."""

    train: bool = False  # train the dense model first, as a stage of this run, on all training images
    epochs: int | None = bounded(None, gt=0)  # of that stage; default: trainer.max_epochs
    batch_size: int | None = bounded(None, gt=0)  # of that stage; default: that of the section `data`
    mixup: float | None = bounded(None, ge=0)  # likewise
    smoothing: float | None = bounded(None, ge=0, lt=1)  # likewise
    lr: float | None = bounded(None, gt=0)  # of that stage; default: that of the section `optimizer`
    weight_decay: float | None = bounded(None, ge=0)  # likewise
    warmup_epochs: float | None = bounded(None, ge=0)  # likewise
    run: str | None = None  # a run directory whose dense model teaches
    model: str | None = None  # a timm model
    pretrained: bool | str = _weights(True)  # with `model`: true (the hub), or the path of a file


@dataclass
class MinKeepConfig:
    """The least that pruning leaves."""

    heads: int = bounded(1, gt=0)  # of a block that keeps its attention
    dims: int = bounded(1, gt=0)  # value dimensions of a head that is kept
    channels: int = bounded(1, gt=0)  # of a block that keeps its MLP
    blocks: int | None = bounded(None, gt=0)  # default: the budget's share of the blocks, rounded up


@dataclass
class BudgetConfig:
    """What the compressed model may cost: one of `macs` and `params`, as 50%, 2.3G or a whole number."""

    macs: int | str | None = None
    params: int | str | None = None
    static: int | str | None = None  # USDC: the MACs of the resident model, where `macs` limits the expected ones
    drop_blocks: int | None = bounded(None, gt=0)  # DC-ViT, PRACTISE: the MACs without so many whole blocks
    convention: Literal["full", "paper"] = "full"  # paper: as the method's authors count
    min_keep: MinKeepConfig = field(default_factory=MinKeepConfig)
    round_to: int = bounded(1, gt=0)  # channels and value dimensions are kept in multiples of it


@dataclass
class SyntheticConfig:
    """Images made from noise to compare networks on (DC-ViT); the defaults are the paper's."""

    count: int = bounded(50, gt=0)
    batch: int = bounded(50, gt=0)  # images at a time; changes none of them
    iterations: int = bounded(2000, gt=0)
    warmup: int = bounded(100, ge=0)  # iterations
    lr: float = bounded(0.25, gt=0)
    tv: float = bounded(1e-4, ge=0)  # weight of the total variation
    l2: float = bounded(1e-5, ge=0)  # weight of the norm
    beta: float | None = bounded(None, gt=0)  # exponent of the total variation; default: 1 for DeiT, else .6
    roll: int | None = bounded(None, ge=0)  # at random, by at most so many pixels; default: 30 of 224
    flip: bool = True  # at random, from left to right


@dataclass
class SlurmConfig:
    """What `vitc slurm` writes into the batch script."""

    nodes: int = bounded(1, gt=0)
    gpus_per_node: int = bounded(1, ge=0)  # 0: one CPU process a node
    cpus_per_task: int = bounded(8, gt=0)
    time: str = "24:00:00"
    account: str | None = None
    partition: str | None = None
    constraint: str | None = None
    mem: str | None = None
    signal_seconds: int = bounded(120, gt=0)  # before the time limit, to save and be requeued
    setup: list[str] = field(default_factory=list)  # shell lines before `srun`, e.g. "module load cuda"


@dataclass
class TrainerConfig:
    """Lightning's Trainer, key by key; the framework sets loggers, callbacks, plugins and the sampler."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    strategy: Literal["auto", "ddp"] = "auto"  # auto: ddp where there are several processes
    devices: int | str | list[int] = field(
        default="auto",
        metadata=rule('a number > 0, "auto", a list of device numbers or a string like "0,1"', _is_devices),
    )
    num_nodes: int = bounded(1, gt=0)
    precision: Literal[
        "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true", "32", "16", "bf16", "64"
    ] = "32-true"  # fmt: skip
    max_epochs: int | None = bounded(None, gt=0)
    min_epochs: int | None = bounded(None, gt=0)
    max_steps: int = field(
        default=-1, metadata=rule("a number of steps > 0, or -1 for no limit", lambda v: v > 0 or v == -1)
    )
    min_steps: int | None = bounded(None, gt=0)
    max_time: str | None = field(
        default=None,
        metadata=rule("a time as DD:HH:MM:SS", lambda v: bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", v))),
    )
    limit_train_batches: int | float | None = _some_batches()
    limit_val_batches: int | float | None = _batches(None)
    limit_test_batches: int | float | None = _batches(None)
    overfit_batches: int | float = _batches(0.0)
    val_check_interval: int | float | None = _some_batches()
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
class Experiment:
    """One YAML of `experiments/`, merged with its bases and the command line."""

    name: str = _file_name("")  # default: the name of the file; not inherited from a base
    description: str = ""  # one line for `vitc list`; not inherited from a base
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    method: Any = MISSING  # the Arguments of methods/<method.name>.py
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)  # by name: the Arguments of callbacks/<name>.py
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    seed: int = bounded(0, ge=0)
    threads: int | None = bounded(None, gt=0)  # CPU threads of torch; default: torch's own choice
    output_dir: str = "runs"
    run_name: str = _file_name("default")
    method_name: str = field(default="", metadata={"key": False})  # `method.name`, which Arguments leaves out

    def to_container(self) -> dict[str, Any]:
        """Every key with its value, as plain data: what `config.yaml` holds and `load_experiment` reads."""
        values = asdict(self)
        values["method"] = {"name": values.pop("method_name"), **values["method"]}
        return values


def must_be_trained(experiment: Experiment) -> None:
    """For methods that compress a trained network: refuse to start from a random one. A dry run may."""
    model, teacher = experiment.model, experiment.teacher
    given = teacher.train or teacher.run or model.pretrained or is_directory_name(model.name)
    if not given and experiment.data.name != "fake":
        raise ValueError(
            f"model.pretrained: {experiment.method_name} compresses a trained network; set it, or teacher.train=true "
            "to train one first, or teacher.run"
        )
    if experiment.budget.params is not None and experiment.budget.convention == "paper":
        raise ValueError("budget.convention: paper is a way to count MACs; it has no effect with budget.params")
