"""An experiment: all sections."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lightning_vitc.schema.budget import BudgetConfig
from lightning_vitc.schema.data import DataConfig
from lightning_vitc.schema.fields import MISSING, bounded, file_name, one_line, path
from lightning_vitc.schema.network import ModelConfig, is_directory_name
from lightning_vitc.schema.recipe import OptimizerConfig, TeacherConfig
from lightning_vitc.schema.running import SlurmConfig, TrainerConfig


@dataclass
class Experiment:
    """One YAML of `experiments/`, merged with its bases and the command line."""

    name: str = file_name("")  # default: the name of the file; not inherited from a base
    description: str = ""  # one line for `vitc list`; not inherited from a base
    label: str | None = one_line()  # what its method is called in tables and pictures; default: method.name
    recipe: Literal["paper", "released"] | None = None  # as the paper says, or as its authors' code does
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
    output_dir: str = path("runs")
    run_name: str = file_name("default")
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


def must_keep_precision(experiment: Experiment, rounded: str = "state of {}'s search") -> None:
    """For methods whose weights or state move in small steps, beside a network that keeps its own precision.

    Args:
        experiment: with its trainer's precision, refused where it is that of the parameters and not single.
        rounded: what fewer bits would round; `{}` is the method.
    """
    precision, method = experiment.trainer.precision, experiment.method_name
    if precision in ("bf16-true", "16-true"):
        mixed = precision.replace("true", "mixed")
        raise ValueError(f"trainer.precision: {precision} rounds the {rounded.format(method)}; use {mixed}")
    if precision in ("64-true", "64"):
        raise ValueError(
            f"trainer.precision: {precision} is not that of the network which {method} is compared with; use 32-true"
        )


def must_read_no_label(experiment: Experiment) -> None:
    """For methods that need images alone, and few: refuse what mixes or softens labels, and all images at once."""
    data, method = experiment.data, experiment.method_name
    for key in ("mixup", "cutmix", "smoothing"):
        if getattr(data, key):
            raise ValueError(f"data.{key}: {getattr(data, key)} changes labels, and {method} reads none; set it to 0")
    if not data.few_shot:
        raise ValueError(
            f"data.few_shot: false; {method} holds its few training images in memory; set it to true, and "
            "data.num_samples"
        )
