"""Experiments as data: YAML and command line in, one typed and checked `Experiment` out.

Nothing here imports torch, and every mistake of the user is a `UserError`: one line that names the full key.
"""

from .load import experiment_of, load_experiment
from .sources import experiments, find_experiment
from .timm_arguments import parse_arguments
from .yaml_text import dump

__all__ = ["dump", "experiment_of", "experiments", "find_experiment", "load_experiment", "parse_arguments"]
