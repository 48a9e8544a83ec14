"""An experiment: all sections."""

from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_vitc.schema.budget import BudgetConfig
from lightning_vitc.schema.data import DataConfig
from lightning_vitc.schema.fields import MISSING, bounded, file_name
from lightning_vitc.schema.network import ModelConfig, is_directory_name
from lightning_vitc.schema.recipe import OptimizerConfig, TeacherConfig
from lightning_vitc.schema.running import SlurmConfig, TrainerConfig


@dataclass
class Experiment:
    """One YAML of `experiments/`, merged with its bases and the command line."""

    name: str = file_name("")  # default: the name of the file; not inherited from a base
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


def must_keep_precision(experiment: Experiment) -> None:
    """For methods whose state moves in small steps: refuse to round it."""
    if experiment.trainer.precision in ("bf16-true", "16-true"):
        mixed = experiment.trainer.precision.replace("true", "mixed")
        raise ValueError(
            f"trainer.precision: {experiment.trainer.precision} rounds the state of {experiment.method_name}'s search; "
            f"use {mixed}"
        )
