"""Two ranks over gloo are one training: for every method the same decisions and losses, and one all-reduce a step.

Every method is run as `vitc train` runs it, by one process and by two on the same global batches, with SGD, which is as
exact as its gradients.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import fork_ranks
from lightning.pytorch import Callback, Trainer

from lightning_vitc.budget.masks import as_indices
from lightning_vitc.config import load_experiment
from lightning_vitc.files.records import opened
from lightning_vitc.methods.usdc import USDC
from lightning_vitc.methods.uvc import UVC
from lightning_vitc.pipeline import stages
from lightning_vitc.pipeline.train import train

# What a rank does


CONTROLS = ("widths", "searching", "target_ratio", "gate_stage", "temperature", "selecting")


class Watch(Callback):
    """Notes what a rank sees, draws, reduces and decides in a stage."""

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {"images": [], "draws": [], "noise": [], "reduced": []}
        self.in_step = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        trained = sum(one.numel() for one in pl_module.parameters() if one.requires_grad)
        self.notes |= {"ranks": trainer.world_size, "trained": trained, "start": digest(pl_module)}
        if trainer.world_size > 1:
            ddp = trainer.strategy.model
            self.notes["scans"] = ddp.find_unused_parameters or ddp.static_graph
            ddp.register_comm_hook(None, allreduce_hook)  # what DDP does without one, where it can be counted

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        images = batch if isinstance(batch, torch.Tensor) else batch[0]
        self.notes["images"].append([hashlib.sha1(image.numpy().tobytes()).hexdigest() for image in images])
        self.notes["reduced"].append([])
        self.in_step = True

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Any) -> None:
        """Before the step is counted, on which draws depend; as often as a method goes backwards in it."""
        drawn: dict[str, Any] = {name: getattr(pl_module, name, None) for name in CONTROLS}
        if isinstance(pl_module, UVC):
            drawn["gates"] = pl_module._sampled_gates().tolist()
        if isinstance(pl_module, USDC):  # each rank has images of its own; their gates are chosen alike
            drawn["gates"] = [pl_module.gates.architecture.tolist(), pl_module.gates.chosen.tolist()]
        self.notes["draws"].append(str(drawn))
        self.notes["noise"].append(torch.initial_seed())  # of dropout and stochastic depth

    def on_train_batch_end(self, *_: Any) -> None:
        self.in_step = False

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.notes["end"] = digest(pl_module)
        of_widths = getattr(pl_module, "_calibrated", {}).values()
        self.notes["statistics"] = [kept.statistics["bn1.running_var"].tolist() for kept in of_widths]
        if hasattr(pl_module, "decide"):
            self.notes["decision"] = as_indices(pl_module.decide())


def digest(module: torch.nn.Module) -> str:
    """Of every bit of its state."""
    total = hashlib.sha1()
    for name, value in module.state_dict().items():
        total.update(name.encode() + value.contiguous().numpy().tobytes())
    return total.hexdigest()


def run_rank(arguments: list[str], result: str) -> None:
    """Train, and write down what was seen, stage by stage."""
    watches: dict[str, Watch] = {}
    make, reduce = stages.stage_trainer, torch.distributed.all_reduce

    def watched(experiment: Any, directory: Any, stage: str, *rest: Any, **options: Any) -> Trainer:
        trainer = make(experiment, directory, stage, *rest, **options)
        watches[stage] = Watch()
        trainer.callbacks.insert(0, watches[stage])
        return trainer

    def counted(tensor: torch.Tensor, *rest: Any, **options: Any) -> Any:
        for watch in watches.values():
            if watch.in_step:
                watch.notes["reduced"][-1].append(tensor.numel())
        return reduce(tensor, *rest, **options)

    stages.stage_trainer, torch.distributed.all_reduce = watched, counted
    train(load_experiment(arguments[0], arguments[1:]))
    Path(result).write_text(json.dumps({stage: watch.notes for stage, watch in watches.items()}))


RANK = """
import sys
sys.path[:] = path
import this_file
this_file.run_rank(arguments, f"{results}{environment.get('LOCAL_RANK', 0)}.json")
"""


# The runs


@dataclass(frozen=True)
class Runs:
    """What ranks noted, and the directory of their run."""

    ranks: list[dict[str, Any]]
    run: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [opened(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]

    def read(self, name: str) -> Any:
        return opened((self.run / name).read_bytes())


MODEL = ("model.name=deit_tiny_patch16_224", "model.depth=5", "model.embed_dim=48", "model.num_heads=6",
         "model.patch_size=4")  # fmt: skip
DATA = ("data.num_samples=128", "data.batch_size=32", "data.eval_batch_size=60", "data.no_aug=false",
        "data.re_prob=0.5", "data.mixup=0.0", "trainer.max_epochs=3")  # fmt: skip
RECIPE = ("optimizer.name=momentum", "optimizer.lr=1e-2", "optimizer.warmup_epochs=0", "trainer.log_every_n_steps=1")
UNTAUGHT = ("teacher.train=false", "teacher.epochs=null")
FEW = ("data.num_samples=24", "data.batch_size=8", "data.no_aug=false", "data.re_prob=0.5", "trainer.max_epochs=2",
       "teacher.lr=null", "teacher.batch_size=null", "teacher.mixup=null", "teacher.smoothing=null",
       "teacher.weight_decay=null", "teacher.warmup_epochs=null", "method.trials_at_once=1")  # fmt: skip
FINETUNED = ("method.finetune_epochs=2", "method.finetune_lr=1e-2")
METHODS: dict[str, tuple[str, ...]] = {
    "dense": ("dense_digits", *DATA),
    "scala": ("scala_digits", *DATA, *UNTAUGHT),
    "uvc": ("uvc_digits", *DATA, *UNTAUGHT, *FINETUNED, "method.gate_every=1", "method.gate_lr=0.3"),
    "usdc": ("usdc_digits", *DATA, *UNTAUGHT, *FINETUNED, "method.grouping=avg-8", "method.gate_lr=0.05",
             "method.architecture_lr=0.1", "method.gamma=5"),
    "dcvit": ("dcvit_digits", *FEW, *UNTAUGHT, "method.synthetic.iterations=4", "method.synthetic.count=5",
              "method.synthetic.warmup=1"),
    "practise": ("practise_digits", *FEW, *UNTAUGHT, "budget.drop_blocks=3", "method.latency_batch=4"),
    "one_shot": ("magnitude_digits", *DATA, *UNTAUGHT, *FINETUNED),
}  # fmt: skip
SPREAD = ("trials_0", "trials_1", "trials_2")  # stages of one process each


def run(place: Path, count: int, arguments: tuple[str, ...]) -> Runs:
    """By so many processes."""
    if not (place / "this_file.py").exists():
        (place / "this_file.py").symlink_to(__file__)
    name = ("one", "two")[count - 1]
    keys = [*arguments, f"run_name={name}", f"trainer.devices={count}"]
    results, path = f"{place}/{arguments[0]}-{name}-", [str(place), *sys.path]
    for process in fork_ranks(count, RANK, place, path=path, arguments=keys, results=results):
        process.join(500)
        assert process.exitcode == 0
    notes = [json.loads(Path(f"{results}{rank}.json").read_text()) for rank in range(count)]
    return Runs(notes, place / "runs" / arguments[0] / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def dense(place: Path) -> Runs:
    """By one process; what all other methods start from."""
    return run(place, 1, (*METHODS["dense"], *MODEL, *RECIPE))


@pytest.fixture(scope="module", params=METHODS)
def both(request: pytest.FixtureRequest, place: Path, dense: Runs) -> tuple[Runs, Runs]:
    """A method's runs by one process and by two."""
    arguments = (*METHODS[request.param], *MODEL, *RECIPE)
    if request.param == "dense":
        return dense, run(place, 2, arguments)
    if request.param != "scala":
        arguments = (*arguments, f"teacher.run={dense.run}")
    return run(place, 1, arguments), run(place, 2, arguments)


def shared(both: tuple[Runs, Runs]) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Notes of the stages that both ranks train together: of one process, of rank 0 and of rank 1."""
    one, (first, second) = both[0].ranks[0], both[1].ranks
    together = [stage for stage in one if stage not in SPREAD]
    assert together
    return [(one[stage], first[stage], second[stage]) for stage in together]


@pytest.mark.slow
def test_ranks_make_the_same_decisions(both):
    """Bit for bit: what they start a stage from, what is decided in the end, and all state."""
    for _, first, second in shared(both):
        for what in ("start", "end", "decision", "ranks", "trained"):
            assert first.get(what) == second.get(what)


@pytest.mark.slow
def test_ranks_draw_the_same_widths_and_gates_and_other_augmentations(both):
    for alone, first, second in shared(both):
        assert first["draws"] == second["draws"]
        assert all(one != two for one, two in zip(first["noise"], second["noise"], strict=True))
        for images, one, two in zip(alone["images"], first["images"], second["images"], strict=True):
            assert one + two == images  # augmented as in one process, where every image has an augmentation of its own
            assert not set(one) & set(two)
    draws = {draw for _, first, _ in shared(both) for draw in first["draws"]}
    assert len(draws) > 3 or both[0].read("result.json")["method"] in ("dense", "dcvit", "practise", "one_shot")


@pytest.mark.slow
def test_losses_are_those_of_one_process(both):
    """In fp32 to 2e-5, after up to 24 steps; of stages that are spread over the ranks, to the bit."""
    alone, two = both
    known = {(line["stage"], line["step"], tuple(line)): line for line in alone.metrics}
    lines = [line for line in two.metrics if line["stage"] not in SPREAD]
    assert {line["stage"] for line in lines} == {line["stage"] for line in alone.metrics} - set(SPREAD)
    for line in lines:
        expected = known[line["stage"], line["step"], tuple(line)]
        assert line == {key: pytest.approx(value, abs=2e-5) for key, value in expected.items()}
    for stage in SPREAD:
        trained = [rank[stage]["end"] for rank in (*alone.ranks, *two.ranks) if stage in rank]
        assert len(trained) in (0, 2)
        assert len(set(trained)) <= 1


@pytest.mark.slow
def test_decisions_are_those_of_one_process(both):
    alone, two = both
    for name in ("architecture.json", "blocks.json"):
        assert (alone.run / name).exists() == (two.run / name).exists()
        if (alone.run / name).exists():
            measured = ("scores", "order", "latency_reductions") if "practise" in str(alone.run) else ()
            one, other = (
                {key: value for key, value in runs.read(name).items() if key not in measured} for runs in both
            )
            assert one == other


@pytest.mark.slow
def test_gradients_are_reduced_once_a_step_without_a_scan_for_unused_parameters(both):
    """What else is reduced in a step is what is logged, and the few numbers that a method has of the whole batch."""
    for alone, *ranks in shared(both):
        assert not any(alone["reduced"])
        for notes in ranks:
            assert (notes["ranks"], notes["scans"]) == (2, False)
            assert len(notes["reduced"]) == len(notes["images"]) > 3
            for sizes in notes["reduced"]:
                assert sizes.count(notes["trained"]) == 1
                assert sum(sizes) - notes["trained"] < 0.05 * notes["trained"]


ONE_EPOCH = ("data.num_samples=64", "trainer.max_epochs=1", "optimizer.warmup_epochs=0")
BATCH_NORMS = {
    "scala": ("scala_mobilenetv2_digits", *ONE_EPOCH, *UNTAUGHT, "model.depths=[1]", "method.granularity=0.25"),
    "search": ("uvc_uniformer_digits", *ONE_EPOCH, "model.embed_dim=[8,16,16,24]", "model.depths=[1,1,1,1]",
               "teacher.epochs=1", "teacher.warmup_epochs=0", "method.finetune_epochs=1", "method.gate_every=1",
               "budget.macs=90%"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stage", BATCH_NORMS)
def test_ranks_have_the_same_statistics_of_batch_norms(place, stage):
    """Every rank normalizes by batches of its own; what it keeps of them, and every width's, is that of all."""
    first, second = (rank[stage] for rank in run(place, 2, BATCH_NORMS[stage]).ranks)
    assert first["images"] != second["images"]
    assert first["end"] == second["end"] != first["start"]
    assert first["draws"] == second["draws"]
    assert first.get("decision") == second.get("decision")
    assert first["statistics"] == second["statistics"]
    assert len({tuple(values) for values in first["statistics"]}) == 4 * (stage == "scala")  # widths


@pytest.mark.slow
def test_as_a_user_runs_it(vitc, tiny):
    """Lightning starts the second process by the words of the first."""
    keys = [key for key in tiny if not key.startswith("method.")]
    command = [vitc.executable, "train", "dense_digits", *keys, "trainer.devices=2"]
    two = subprocess.run(command, cwd=vitc.place, capture_output=True, text=True, check=False, timeout=300)
    assert two.returncode == 0, two.stderr
    assert "Warning" not in two.stderr
    assert two.stdout.count("(seed 0), test split") == 1
    again = vitc.run_ranks(2, *command[1:])
    assert [(rank.code, "Warning" in rank.error) for rank in again] == [(0, False)] * 2
    assert [rank.out.count("is complete") for rank in again] == [1, 0]
