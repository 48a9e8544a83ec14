"""One module a command: `add_arguments(parser)`, `run(args) -> int`; imported only when the command runs."""

COMMANDS = {
    "train": "run an experiment, or continue it",
    "sweep": "every combination of values of some keys, a run each, and one table over seeds",
    "evaluate": "top-1 and top-5 accuracy of a run or of a compressed model",
    "plan": "what a method can reach for its model, and whether the budget is satisfiable",
    "cost": "multiply-accumulates and parameters, whole and by part",
    "benchmark": "latency, throughput, memory and size beside the dense model",
    "export": "write the compressed model of a run",
    "predict": "what a compressed model sees on images: names and probabilities",
    "report": "one page over finished runs: table, accuracy over cost, architectures",
    "runs": "the runs there are: state, budget, accuracy, age and size",
    "rm": "delete runs, and nothing that is none",
    "slurm": "write the batch script of an experiment, and submit it",
    "show": "every key of an experiment or of a run, with its value, where that comes from, and what it means",
    "list": "experiments, methods, callbacks and data sets",
}
"""Every command with the line that `vitc --help` prints; the module is `lightning_vitc.commands.<name>`."""
