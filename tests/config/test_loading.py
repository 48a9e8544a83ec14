"""What a good experiment becomes."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from lightning_vitc.config import dump, experiments, load_experiment, parse_arguments
from lightning_vitc.errors import UserError
from lightning_vitc.schema import TrainerConfig

Write = Callable[[str, str], Path]


def test_defaults_and_types(place: Path) -> None:
    experiment = load_experiment("ok", ["optimizer.lr=1", "slurm.time=24:00:00", "run_name=7"])
    assert (experiment.name, experiment.method_name, experiment.description) == ("ok", "scaled", "a test")
    assert type(experiment.method).__name__ == "Arguments"
    assert (experiment.method.s, experiment.method.slice) == (0.25, "per_head")
    assert type(experiment.optimizer.lr) is float
    assert (experiment.slurm.time, experiment.run_name) == ("24:00:00", "7")
    assert (experiment.callbacks, experiment.seed, experiment.data.root) == ({}, 0, None)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("trainer.limit_val_batches=1", 1),
        ("trainer.limit_val_batches=1.0", 1.0),
        ("trainer.devices=[0, 2]", [0, 2]),
        ("trainer.devices='0,1'", "0,1"),
        ("trainer.precision=32", "32"),
        ("trainer.deterministic=warn", "warn"),
        ("trainer.max_time='00:12:00:00'", "00:12:00:00"),
        ("optimizer.lr=1e-3", 0.001),
        ("optimizer.betas=[0, 0.5]", [0.0, 0.5]),
        ("data.few_shot=yes", True),
        ("model.depth=null", None),
        ("model.pretrained=false", False),
        ("output_dir=a=b", "a=b"),
    ],
)
def test_value_keeps_its_type(place: Path, override: str, read: object) -> None:
    experiment = load_experiment("ok", [override])
    section, _, key = override.partition("=")[0].rpartition(".")
    value = getattr(getattr(experiment, section) if section else experiment, key)
    assert value == read
    assert type(value) is type(read)


def test_later_wins_and_the_command_line_wins_over_all(write: Write) -> None:
    write("base/low.yaml", "seed: 1\noptimizer: {lr: 0.1, eps: 1e-5, betas: [0.1, 0.2]}\ndescription: low\nname: low")
    write("base/mid.yaml", "base: low\nseed: 2\noptimizer: {betas: [0.3, 0.4]}")
    write("base/top.yaml", "base: [low]\noptimizer: {lr: 0.3}")
    write("mine.yaml", "base: [ok, mid, top]\ntrainer: {max_epochs: 3}\noptimizer:\n")
    experiment = load_experiment("mine", ["optimizer.eps=1e-4", "optimizer.eps=1e-3"])
    assert experiment.seed == 2  # `top` names `low` again, which stays below `mid`
    assert (experiment.optimizer.lr, experiment.optimizer.eps) == (0.3, 1e-3)
    assert experiment.optimizer.betas == [0.3, 0.4]
    assert experiment.trainer.max_epochs == 3
    assert (experiment.name, experiment.description) == ("mine", "")


def test_base_by_path_is_relative_to_the_file(write: Write) -> None:
    write("more/mine.yaml", "base: ../ok.yaml\nseed: 5")
    assert load_experiment("experiments/more/mine.yaml").seed == 5


def test_callbacks_on_off_and_inherited(write: Write) -> None:
    write("mine.yaml", "base: ok\ncallbacks: {fade: {decay: 0.5}}")
    assert load_experiment("mine").callbacks["fade"].decay == 0.5
    assert load_experiment("mine", ["callbacks.fade=true"]).callbacks["fade"].decay == 0.9
    assert load_experiment("mine", ["callbacks.fade=false"]).callbacks == {}


def test_interpolation_reads_values_and_defaults(write: Write) -> None:
    write(
        "mine.yaml",
        """
        base: ok
        seed: ${trainer.max_epochs}
        callbacks: {fade: {decay: "${method.s}", sampling: "${method.sampling}"}}
        slurm: {setup: ['echo \\${HOME}', 'echo ${name} ${slurm.nodes}']}
        """,
    )
    experiment = load_experiment("mine", ["method.sampling=uniform"])
    assert experiment.seed == 10
    assert (experiment.callbacks["fade"].decay, experiment.callbacks["fade"].sampling) == (0.25, "uniform")
    assert experiment.slurm.setup == ["echo ${HOME}", "echo mine 1"]


def test_resolved_config_round_trips(write: Write, place: Path) -> None:
    write("mine.yaml", "base: ok\nslurm: {setup: ['echo \\\\\\${HOME} \\${A}']}\nseed: ${trainer.max_epochs}")
    odd = ["run_name='1e-3'", "description='yes: \"no\" é'", "optimizer.eps=1e-12", "callbacks.fade=true"]
    experiment = load_experiment("mine", [*odd, "slurm.time=10:00", "method.widths=[0.5, 1]"])
    (place / "config.yaml").write_text(dump(experiment))
    assert load_experiment("config.yaml") == experiment
    assert dump(load_experiment("config.yaml")) == dump(experiment)


def test_files_of_another_machine_are_not_asked_for(place: Path) -> None:
    overrides = ["output_dir=/proc/x", "teacher.run=gone"]
    assert load_experiment("ok", overrides, check_files=False).teacher.run == "gone"


def test_timm_arguments() -> None:
    assert parse_arguments(["depth=6", "num_classes=10", "init_values=1"]) == {
        "depth": 6, "num_classes": 10, "init_values": 1.0,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"^depht: unknown key; did you mean 'depth'\?$"):
        parse_arguments(["depht=6"])


def test_trainer_keys_are_parameters_of_lightning() -> None:
    from lightning.pytorch import Trainer

    parameters = inspect.signature(Trainer.__init__).parameters
    assert {field.name for field in fields(TrainerConfig)} - {"compile"} <= parameters.keys()  # which is ours


@pytest.mark.parametrize("name", experiments())
def test_shipped_experiment_loads_and_says_what_it_is(name: str) -> None:
    experiment = load_experiment(name, check_files=False)
    assert experiment.name == name
    assert experiment.description


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.s=1.0"], "method.s: 1.0 is out of range; it must be > 0 and < 1"),
        (["method.s=0.5", "method.l=0.5"], "method.s: 0.5 must be less than method.l = 0.5"),
        (["method.granularity=0.2"], "method.granularity: steps of 0.2 from s = 0.25 miss l = 1; "
         "(l - s) / granularity must be a whole number"),
    ],
)  # fmt: skip
def test_scala_states_its_rules(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        load_experiment("scala_digits", overrides, check_files=False)
    assert str(raised.value) == message


def test_a_budget_or_teacher_of_the_command_line_replaces_the_written_one() -> None:
    assert load_experiment("dcvit_digits").budget.drop_blocks == 2
    budget = load_experiment("dcvit_digits", ["budget.macs=80%"]).budget
    assert (budget.macs, budget.drop_blocks, budget.convention) == ("80%", None, "paper")
    assert load_experiment("uvc_digits", ["budget.params=50%"]).budget.macs is None
    assert load_experiment("dcvit_digits", ["teacher.lr=1e-4"]).teacher.train
    teacher = load_experiment("dcvit_digits", ["teacher.run=runs/other"], check_files=False).teacher
    assert (teacher.run, teacher.train, teacher.lr, teacher.epochs) == ("runs/other", False, None, None)


@pytest.mark.parametrize("key", ["epochs=3", "lr=0.1", "batch_size=8", "mixup=0.1", "warmup_epochs=1"])
def test_a_recipe_without_a_teacher_to_train(key: str) -> None:
    message = rf"teacher.{key.partition('=')[0]}: has no effect without teacher.train=true"
    with pytest.raises(UserError, match=message):
        load_experiment("dcvit_digits", ["teacher.train=false", "data.name=fake", f"teacher.{key}"])


@pytest.mark.parametrize(
    ("name", "round_to"), [("uvc_deit_s", None), ("uvc_digits", 1), ("magnitude_glyphs", 1), ("dcvit_vit_b", 1),
                           ("scala_digits", 1)]
)  # fmt: skip
def test_the_multiple_is_free_where_heads_are_wide(name: str, round_to: int | None) -> None:
    """Documented results of narrow heads stay, and so do runs of versions whose default was 1."""
    assert load_experiment(name, check_files=False).budget.round_to == round_to
    assert load_experiment(name, ["budget.round_to=1"], check_files=False).budget.round_to == 1


@pytest.mark.parametrize(("key", "method"), [("drop_blocks=2", "uvc"), ("round_to=4", "dcvit")])
def test_a_budget_that_the_method_does_not_know(key: str, method: str) -> None:
    with pytest.raises(UserError, match=rf"budget.{key.partition('=')[0]}: the method '{method}' does not know it"):
        load_experiment(f"{method}_digits", [f"budget.{key}"])
