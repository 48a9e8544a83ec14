"""Rules between keys, and rules of the machine: what a type and a range cannot say."""

import re
import tempfile
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

from lightning_vitc.data.catalog import TREES, check_root
from lightning_vitc.data.classes import read_class_file
from lightning_vitc.errors import UserError
from lightning_vitc.errors.messages import counted
from lightning_vitc.networks.weights.settings import keys_beside
from lightning_vitc.schema import (
    BudgetConfig,
    DataConfig,
    Experiment,
    ModelConfig,
    PostTrainingArguments,
    TeacherConfig,
    TrainerConfig,
    is_directory_name,
)

OF_LATENCY = ("device", "batch_size")  # keys of `budget:` that say where a latency counts
LATENCY = ("latency_ms", *OF_LATENCY)
OF_AMOUNTS = ("macs", "params", "static")
TEACHER_RECIPE = ("epochs", "batch_size", "mixup", "cutmix", "smoothing", "lr", "weight_decay", "warmup_epochs")


def check_rules(experiment: Experiment) -> None:
    """Refuse values that do not go together."""
    _check_model(experiment.model)
    if experiment.model.frozen_blocks and not getattr(experiment.method, "freezes", False):
        raise UserError(f"model.frozen_blocks: the method '{experiment.method_name}' freezes none; leave it out")
    _check_data(experiment.data, experiment.model.in_chans or 3)
    _check_own_rules(experiment.method, experiment, "method")
    _check_teacher(experiment.teacher)
    _check_budget(experiment)
    for name, arguments in experiment.callbacks.items():
        _check_own_rules(arguments, experiment, f"callbacks.{name}")
    _check_trainer(experiment.trainer, experiment.optimizer.warmup_epochs)
    _check_compile(experiment)
    if isinstance(experiment.method, PostTrainingArguments):
        _check_finetuning(experiment.method)


def settle(experiment: Experiment) -> None:
    """Write down what values left out follow from, before their sources are gone.

    A method that rounds to no multiple has one of 1, as in runs of versions in which that was the default. Weights of
    Hugging Face's transformers say the epsilon and the activation that they were trained with.
    """
    for key, value in keys_beside(experiment.model.pretrained).items():
        if getattr(experiment.model, key) is None:
            setattr(experiment.model, key, value)
    if "round_to" not in _budget_keys(experiment.method):
        experiment.budget.round_to = experiment.budget.round_to or 1


def check_files(experiment: Experiment) -> None:
    """Refuse paths that are not there or cannot be written."""
    _check_compressed(experiment.model)
    for section, path in (("model", experiment.model.pretrained), ("teacher", experiment.teacher.pretrained)):
        if isinstance(path, str) and not Path(path).exists():
            raise UserError(f"{section}.pretrained: there is no file '{path}'")
    check_root(experiment.data)
    if experiment.data.classes is not None:
        read_class_file(experiment.data.classes)
    run = experiment.teacher.run
    if run is not None and not (Path(run) / "config.yaml").is_file():
        raise UserError(f"teacher.run: '{run}' is not the directory of a run: it has no config.yaml")
    _check_writable(experiment.output_dir)


def _check_budget(experiment: Experiment) -> None:
    budget, default = experiment.budget, BudgetConfig()
    given = [
        key for key in ("macs", "params", "latency_ms", "static", "drop_blocks", "round_to", *OF_LATENCY)
        if getattr(budget, key) != getattr(default, key) and not (key == "round_to" and budget.round_to == 1)
    ]  # fmt: skip
    least = vars(default.min_keep)
    given += [f"min_keep.{key}" for key, value in vars(budget.min_keep).items() if value != least[key]]
    if given and not getattr(experiment.method, "takes_budget", False):
        raise UserError(f"budget.{given[0]}: the method '{experiment.method_name}' takes no budget; leave it out")
    known = _budget_keys(experiment.method)
    for key in given:
        if key.partition(".")[0] not in known:
            raise UserError(
                f"budget.{key}: the method '{experiment.method_name}' does not know it; it takes {', '.join(known)}"
            )
    _check_latency(budget, given)
    if budget.latency_ms is None:  # beside which `static` counts milliseconds
        for key in OF_AMOUNTS:
            _check_amount(key, getattr(budget, key))


def _check_amount(key: str, value: float | str | None) -> None:
    """A fraction, or a number so small that it must be meant as a share."""
    if isinstance(value, float):
        write = f"{100 * value:g}%" if 0 < value <= 1 else "a share such as 50%, or a number such as 2.3G"
        raise UserError(f"budget.{key}: {value:g} is no amount; write {write}")
    if value is not None and re.fullmatch(r"\s*\d{1,2}0?\s*", str(value)) and 0 < int(value) <= 100:
        of = "parameters" if key == "params" else "MACs"
        raise UserError(f"budget.{key}: {int(value)} {of} are no network; for a share write {int(value)}%")


def _budget_keys(method: Any) -> tuple[str, ...]:
    if not getattr(method, "takes_budget", False):
        return ()
    return getattr(method, "budget_keys", ("macs", "params", "round_to", "min_keep", *LATENCY))


def _check_latency(budget: BudgetConfig, given: list[str]) -> None:
    """A budget is one number, and where it is measured matters for a latency alone."""
    for key in given:
        if budget.latency_ms is not None and key in ("macs", "params", "drop_blocks"):
            raise UserError(f"budget.latency_ms: set beside budget.{key}; give one of them")
        if budget.latency_ms is None and key in OF_LATENCY:
            raise UserError(f"budget.{key}: has no effect without budget.latency_ms; leave it out")


OF_COMPRESSED = (
    "name", "img_size", "new_head", "resample_antialias", "frozen_blocks", "grad_checkpointing", "drop_rate",
    "proj_drop_rate", "attn_drop_rate", "drop_path_rate",
)  # fmt: skip


def _check_model(model: ModelConfig) -> None:
    default = ModelConfig(name=model.name)
    for key, value in vars(model).items():
        if key == "pretrained" and value is True:
            continue  # of a recipe: its own weights are what a compressed model has
        if is_directory_name(model.name) and key not in OF_COMPRESSED and value != getattr(default, key):
            raise UserError(f"model.{key}: {model.name} is a compressed model and fixed; leave the key out")
    for whole, part in (("embed_dim", "num_heads"), ("img_size", "patch_size")):
        above, below = getattr(model, whole), getattr(model, part)
        if isinstance(above, int) and isinstance(below, int) and above % below:
            raise UserError(f"model.{whole}: {above} is not divisible by model.{part}={below}")


def _check_compressed(model: ModelConfig) -> None:
    """A model that was compressed before is what it is."""
    if not is_directory_name(model.name):
        return
    if not Path(model.name).is_dir():
        raise UserError(f"model.name: '{model.name}' is neither an exported model nor a finished run; make it first")


def _check_data(data: DataConfig, channels: int) -> None:
    for name in ("scale", "ratio"):
        pair = getattr(data, name)
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise UserError(f"data.{name}: {pair} is not a pair of ascending numbers > 0")
    allowed = "1" if channels == 1 else f"{channels} or 1"
    for name in ("mean", "std"):
        values = getattr(data, name)
        if values is not None and len(values) not in (1, channels):
            raise UserError(f"data.{name}: {values} has {counted(len(values), 'number')}; it must have {allowed}")
    if data.repeated_aug and data.no_aug:
        raise UserError("data.repeated_aug: repeats the same images where data.no_aug=true; set one of them")
    if data.unlabeled is not None:
        if data.name not in TREES:
            raise UserError(f"data.unlabeled: {data.name} brings its own images; it is for folder and imagenet")
        if not data.few_shot or data.balanced:
            raise UserError("data.unlabeled: this training reads labels; it is for methods that read none, as dcvit")
    if data.classes is not None and data.name not in TREES:
        raise UserError(f"data.classes: {data.name} has an order of its own; it is for {' and '.join(TREES)}")


def _check_teacher(teacher: TeacherConfig) -> None:
    chosen = [name for name in ("train", "run", "model") if getattr(teacher, name)]
    if len(chosen) > 1:
        raise UserError(
            f"teacher.{chosen[1]}: excluded by teacher.{chosen[0]}; set at most one of train, run and model"
        )
    for key in TEACHER_RECIPE:
        if getattr(teacher, key) is not None and not teacher.train:
            raise UserError(f"teacher.{key}: has no effect without teacher.train=true")
    if teacher.pretrained is not True and teacher.model is None:
        raise UserError("teacher.pretrained: has no effect without teacher.model")


def _check_trainer(trainer: TrainerConfig, warmup_epochs: float) -> None:
    epochs = trainer.max_epochs
    if epochs is None and trainer.max_steps == -1:
        raise UserError("trainer.max_epochs: missing; set trainer.max_epochs or trainer.max_steps")
    if epochs is not None and warmup_epochs > epochs:
        raise UserError(f"optimizer.warmup_epochs: {warmup_epochs} is more than trainer.max_epochs={epochs}")
    if trainer.gradient_clip_algorithm and trainer.gradient_clip_val is None:
        raise UserError("trainer.gradient_clip_algorithm: has no effect without trainer.gradient_clip_val")


def _check_finetuning(keys: PostTrainingArguments) -> None:
    if keys.finetune_warmup_epochs > keys.finetune_epochs:
        raise UserError(
            f"method.finetune_warmup_epochs: {keys.finetune_warmup_epochs} is more than "
            f"method.finetune_epochs={keys.finetune_epochs}"
        )


def _check_compile(experiment: Experiment) -> None:
    trainer = experiment.trainer
    if trainer.compile == "whole" and experiment.model.grad_checkpointing:
        raise UserError("trainer.compile: whole excludes model.grad_checkpointing, which works by block; set blocks")
    if trainer.compile and trainer.accelerator in ("mps", "tpu"):
        raise UserError(f"trainer.compile: {trainer.compile} is for cpu and cuda, not {trainer.accelerator}; set false")


def _check_own_rules(arguments: Any, experiment: Experiment, key: str) -> None:
    """The rules that a method or callback states in `Arguments.validate`."""
    validate = getattr(arguments, "validate", None)
    if validate is None:
        return
    try:
        validate(*[experiment] * len(signature(validate).parameters))
    except ValueError as error:
        raise UserError(_with_key(str(error), key, arguments)) from None


def _with_key(message: str, key: str, arguments: Any) -> str:
    """`s: ...` of an Arguments class becomes `method.s: ...`; a message that names its key stays."""
    start = message.partition(":")[0]
    if start in [field.name for field in fields(arguments)]:
        return f"{key}.{message}"
    names_key = start == key or ("." in start and " " not in start)
    return message if names_key else f"{key}: {message}"


def _check_writable(output_dir: str) -> None:
    place = Path(output_dir).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"output_dir: {output_dir}: '{place}' is a file; name a directory")
    try:
        with tempfile.TemporaryFile(dir=place):  # asking for permissions would say yes to root in /proc
            pass
    except OSError:
        raise UserError(f"output_dir: {output_dir}: no permission to write") from None
