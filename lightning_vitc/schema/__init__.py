"""The sections of an experiment, typed.

Every key a YAML or the command line may set is a field here, in `methods/<name>.py` (the arguments of a
method) or in `callbacks/<name>.py` (the arguments of a callback). Nothing here imports torch: a mistake in
a config is answered before any heavy import.
"""

from lightning_vitc.schema.budget import BudgetConfig, MinKeepConfig
from lightning_vitc.schema.data import DataConfig
from lightning_vitc.schema.experiment import Experiment, must_be_trained, must_keep_precision, must_read_no_label
from lightning_vitc.schema.fields import MISSING, bounded, path, rule
from lightning_vitc.schema.network import SOURCES, ModelConfig, is_directory_name
from lightning_vitc.schema.recipe import (
    OptimizerConfig,
    PostTrainingArguments,
    SearchArguments,
    SyntheticConfig,
    TeacherConfig,
)
from lightning_vitc.schema.running import SlurmConfig, TrainerConfig

__all__ = [
    "MISSING",
    "SOURCES",
    "BudgetConfig",
    "DataConfig",
    "Experiment",
    "MinKeepConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PostTrainingArguments",
    "SearchArguments",
    "SlurmConfig",
    "SyntheticConfig",
    "TeacherConfig",
    "TrainerConfig",
    "bounded",
    "is_directory_name",
    "must_be_trained",
    "must_keep_precision",
    "must_read_no_label",
    "path",
    "rule",
]
