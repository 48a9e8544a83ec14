"""DC-ViT from end to end: what a run leaves behind, what it reads, and what it refuses."""

import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from same_run import differences

from lightning_vitc import costs, load
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.few_shot import compression
from lightning_vitc.few_shot.block_plan import BlockPlan
from lightning_vitc.few_shot.compression import Attentions
from lightning_vitc.files.records import opened
from lightning_vitc.methods import dcvit
from lightning_vitc.methods.dcvit import DCViT, Stages
from lightning_vitc.networks.backbone import create_backbone
from lightning_vitc.networks.dropped_attention import active_units, random_units
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline import stages
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import OptimizerConfig

TINY = (
    "model.depth=5", "model.embed_dim=24", "model.num_heads=2", "model.patch_size=4", "teacher.epochs=2",
    "teacher.batch_size=64", "data.num_samples=24", "data.batch_size=10", "trainer.max_epochs=6",
    "optimizer.warmup_epochs=1", "method.synthetic.iterations=6", "method.synthetic.count=7",
    "method.synthetic.warmup=2", "trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_epochs=2",
    "method.trials_at_once=2",
)  # fmt: skip
UNTAUGHT = tuple(key for key in TINY if not key.startswith("teacher"))
STAGES = ("dense", "trials_0", "trials_2", "progressive_2", "progressive_3")


def train(vitc, *overrides: str, experiment: str = "dcvit_digits"):
    return vitc("train", experiment, *TINY, *overrides)


def run_of(place: Path, name: str = "default") -> Path:
    return place / "runs" / "dcvit_digits" / name


def read(run: Path, name: str) -> dict[str, Any]:
    return opened((run / f"{name}.json").read_bytes())


@pytest.fixture(scope="module")
def done(tmp_path_factory, finished_run) -> Path:
    """A finished run, to read and not to change."""
    return finished_run(tmp_path_factory.mktemp("dcvit"), "dcvit_digits", *TINY)


# Its stages, one by one


@pytest.fixture
def steps():
    """Of a run of which nothing is trained."""
    network = create_backbone("deit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, num_heads=2, depth=4)
    keys = SimpleNamespace(score="kl", matched="class", units="random", init="reinit")
    run = SimpleNamespace(
        arguments=keys, optimizer=OptimizerConfig(lr=1e-3), processes=SimpleNamespace(device="cpu"),
        experiment=SimpleNamespace(seed=5, trainer=SimpleNamespace(max_epochs=4)),
    )  # fmt: skip
    compression = Attentions(BlockPlan(2, 7), "training images", keys, seed=5)
    return dcvit.Stages(run, network, network, compression, "training images")


def test_candidates_are_scored_on_what_they_are_shown(steps, monkeypatch):
    """And beside it on the training images, by the loss they were trained to."""
    seen = []
    monkeypatch.setattr(dcvit, "score", lambda _, *asked: seen.append(asked) or len(seen))
    ranked = steps.ranking({2: "second", 1: "first"}, "synthetic images")
    assert seen == [
        ("second", "synthetic images", "kl"), ("first", "synthetic images", "kl"),
        ("second", "training images", "mse"), ("first", "training images", "mse"),
    ]  # fmt: skip
    assert ranked["order"] == [2, 1]


def test_several_blocks_at_once_take_the_epochs_of_all(steps):
    seen = []
    steps.run.fit = lambda stage, start, epochs, *_, **__: seen.append(epochs) or SimpleNamespace(backbone=None)
    steps.finetuned("progressive_2", None, [2], [2, 1], 1)
    steps.finetuned("one_shot", None, [], [2, 1, 0], 3)
    assert seen == [4, 12]


def test_what_is_matched_and_drawn_has_its_keys(steps, monkeypatch):
    module = steps._module({"block_01": 2}, {"block_01": steps.dense})
    assert (module.matched, module.seed) == ("class", 5)
    asked = {}
    monkeypatch.setattr(compression, "units_that_stay", lambda *_, **keys: asked.update(keys) or torch.arange(7))
    monkeypatch.setattr(compression, "drop_attention", lambda *_, **keys: asked.update(keys))
    steps.compression.compress(steps.dense, (), 1)
    assert asked == {"seed": 5, "images": "training images", "units": "random", "init": "reinit"}


def test_progressive_compression_starts_from_the_best_trial(steps, monkeypatch):
    monkeypatch.setattr(dcvit.Stages, "of", lambda _: steps)
    steps.trials = lambda: {1: "trial of 1", 2: "trial of 2"}
    steps.compression.compress_last = lambda network, done, block: f"{network}, after {done} {block}"
    steps.run.fit = lambda stage, build, *_, **__: SimpleNamespace(backbone=build())
    steps._module = lambda behind, networks: f"{behind}: {networks}"
    run, rows = steps.run, []
    run.arguments.score_on, run.arguments.finetune, run.read_only = "train", "progressive", True
    run.record = lambda *_: {"order": [2, 1, 0]}
    run.add_row = lambda name, network, *_, **columns: rows.append((network, columns))
    dcvit.DCViT.pipeline(run)
    network = "{'compressed': 3}: {'compressed': 'trial of 2, after [2] 1'}"
    assert rows == [(network, {"blocks": [1, 2], "hidden": 7})]


# What a run leaves behind


def test_table(done):
    row = read(done, "result")["rows"][0]
    assert (row["name"], row["hidden"], len(row["blocks"])) == ("dcvit", 47, 3)
    order = read(done, "blocks")["order"]
    assert row["blocks"] == sorted(order[:3])
    assert sorted(order) == [1, 2, 3]
    assert read(done, "result")["budget"]["drop_blocks"] == 2


def test_budget_is_kept(done):
    budget, row = read(done, "result")["budget"], read(done, "result")["rows"][0]
    pipeline = pipeline_of(done)
    spec = pipeline.networks[-1].spec
    assert row["params"] == costs.params(spec)
    assert row["macs"] == costs.macs(spec)
    left = budget["target_macs"] - costs.macs(spec, "paper", "dcvit")
    assert 0 <= left < 3 * 2 * 5 * 24  # three blocks by two layers, five tokens, 24 channels


def test_scores_order_the_blocks(done):
    blocks = read(done, "blocks")
    scores = {int(block): score for block, score in blocks["scores"].items()}
    assert blocks["order"] == sorted(scores, key=scores.__getitem__)
    assert all(score > 0 for score in scores.values())
    assert blocks["training_losses"].keys() == blocks["scores"].keys()


def test_synthetic_set(done):
    images = load_file(done / "synthetic.safetensors")["images"]
    assert (images.shape, images.dtype) == ((7, 1, 8, 8), torch.float32)
    assert -1 <= float(images.min()) < float(images.max()) <= 1  # mean .5, std .5
    assert (done / "synthetic.png").read_bytes().startswith(b"\x89PNG")
    assert list((done / "tensorboard" / "synthetic").glob("events*"))


def test_the_hidden_units_that_were_kept_are_stored(done):
    """Those of (seed, block), for each compressed block."""
    order = read(done, "blocks")["order"]
    units = read(done, "hidden_units")
    assert {int(block) for block in units} == set(order[:3])
    for block, kept in units.items():
        assert kept == random_units(96, 47, 0, int(block)).tolist()


def test_progress_starts_from_the_best_candidate(done, monkeypatch):
    """With its fine-tuned weights, and not with those of the dense network."""
    best, second, last = read(done, "blocks")["order"]
    weights = {stage: torch.load(done / "checkpoints" / stage / "last.ckpt", weights_only=True)["state_dict"]
               for stage in STAGES}  # fmt: skip
    dense = torch.load(done / "checkpoints/dense/best.ckpt", weights_only=True)["state_dict"]
    assert weights["progressive_2"][f"backbone.blocks.{best}.mlp.fc1.weight"].shape == (47, 24)
    assert weights["progressive_2"][f"backbone.blocks.{last}.mlp.fc1.weight"].shape == (96, 24)
    assert weights["progressive_3"][f"backbone.blocks.{last}.mlp.fc1.weight"].shape == (47, 24)
    frozen = [name for name in dense if name.startswith("backbone.head")]
    assert all(torch.equal(dense[name], weights["progressive_3"][name]) for name in frozen)

    start = starts_of(done, monkeypatch)["progressive_2"][0].state_dict()
    tuned = weights["trials_0" if best < 3 else "trials_2"]
    prefix = "backbone" if best in (1, 3) else "others.block_02"
    untouched = f"blocks.{second}."  # what is compressed now
    moved = 0
    for name, value in start.items():
        if not name.startswith(untouched):
            assert torch.equal(value, tuned[f"{prefix}.{name}"]), name
            moved += (
                name.startswith(f"blocks.{best}.mlp")
                and value.shape == dense[f"backbone.{name}"].shape
                and not torch.equal(value, dense[f"backbone.{name}"])
            )
    assert moved > 0  # FC2's bias: its weights have another shape
    kept = read(done, "hidden_units")[str(second)]
    assert torch.equal(start[f"{untouched}mlp.fc1.weight"], tuned[f"{prefix}.{untouched}mlp.fc1.weight"][kept])


def starts_of(run: Path, monkeypatch: Any) -> dict[str, list[Any]]:
    """The networks that each stage of a finished run is built with, before their weights are loaded."""
    starts: dict[str, list[Any]] = {}
    load_selected = stages.load_selected

    def noted(module: Any, folder: Path) -> None:
        starts[folder.name] = [deepcopy(network) for network in getattr(module, "networks", {}).values()]
        load_selected(module, folder)

    monkeypatch.setattr(stages, "load_selected", noted)
    pipeline_of(run)
    return starts


def pipeline_of(run: Path) -> Pipeline:
    pipeline = Pipeline(load_experiment(str(run / "config.yaml")), RunDirectory(run), read_only=True)
    DCViT.pipeline(pipeline)
    return pipeline


def test_export_and_load(done, vitc):
    exported = vitc("export", str(done), "--out", "small")
    assert exported.code == 0, exported.error
    model, network = load(vitc.place / "small"), pipeline_of(done).networks[-1]
    chosen = read(done, "result")["rows"][0]["blocks"]
    names = list(model.state_dict())
    assert not any(name.startswith(f"blocks.{block}.{part}") for name in names for block in chosen
                   for part in ("norm1", "attn"))  # fmt: skip
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network.module(images), rtol=0, atol=1e-6)
    assert ArchSpec.of(model).blocks == network.spec.blocks


# What it reads


class ImagesOnly:
    """A loader that has no labels to give."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        for images, _ in self.loader:
            yield images


@pytest.mark.slow
def test_no_label_is_read(done, tmp_path, monkeypatch):
    """The whole search on a loader of images, with the labels of the data set out of reach."""
    overrides = ("teacher.train=false", f"teacher.run={done}", f"output_dir={tmp_path}",
                 "trainer.enable_progress_bar=false")  # fmt: skip
    pipeline = Pipeline(load_experiment("dcvit_digits", [*UNTAUGHT, *overrides]), RunDirectory(tmp_path / "run"))
    loader = pipeline.data.train_dataloader
    monkeypatch.setattr(pipeline.data, "train_dataloader", lambda: ImagesOnly(loader()))
    source = pipeline.data.splits.train.source
    source.targets = source.targets * 0 - 10**6  # any use of them as classes fails
    DCViT.pipeline(pipeline)
    assert read(tmp_path / "run", "blocks")["scores"] == pytest.approx(read(done, "blocks")["scores"], rel=1e-4)


@pytest.mark.slow
def test_photos_without_classes(vitc):
    """The original is trained on a folder of classes, the compression sees other images alone."""
    draw = np.random.default_rng(0)
    for place, count in (("data/train/cat", 9), ("data/train/dog", 9), ("data/val/cat", 2), ("data/val/dog", 2),
                         ("photos/of/summer", 11)):  # fmt: skip
        folder = vitc.place / place
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    keys = ("data.name=folder", f"data.root={vitc.place / 'data'}", "model.img_size=8", "model.in_chans=3",
            "data.mean=null", "data.std=null", f"data.unlabeled={vitc.place / 'photos'}", "data.num_samples=10",
            "teacher.mixup=0", "teacher.batch_size=16")  # fmt: skip
    ran = train(vitc, *keys)
    assert ran.code == 0, ran.error
    assert read(run_of(vitc.place), "result")["rows"][0]["name"] == "dcvit"
    refused = vitc("train", "uvc_digits", *keys[:-3], "run_name=labels")
    assert (refused.code, refused.error) == (
        2, "error: data.unlabeled: this training reads labels; it is for methods that read none, as dcvit\n"
    )  # fmt: skip
    refused = train(vitc, "data.unlabeled=photos", "run_name=digits")
    assert refused.error == "error: data.unlabeled: digits brings its own images; it is for folder and imagenet\n"


def test_images_are_drawn_without_labels():
    experiment = load_experiment("dcvit_digits")
    assert (experiment.data.few_shot, experiment.data.balanced) == (True, False)


# Interrupted equals uninterrupted


@pytest.mark.slow
def test_killed_before_its_synthetic_set_is_recorded_a_run_shows_it_once(done, vitc):
    run = run_of(vitc.place)
    shutil.copytree(done, run)
    for name in ("synthetic.json", "result.json"):
        (run / name).unlink()
    finished = train(vitc)
    assert finished.code == 0, finished.error
    assert differences(done, run) == []


@pytest.mark.slow
def test_scores_do_not_depend_on_how_trials_are_arranged(done, vitc):
    taught = ("teacher.train=false", f"teacher.run={done}")
    for name, keys in (("one", "method.trials_at_once=1"), ("all", "method.trials_at_once=3")):
        scores = run_of(vitc.place, name) / "blocks.json"
        assert vitc.kill_when(scores.exists, "train", "dcvit_digits", *UNTAUGHT, *taught, keys, f"run_name={name}")
        assert read(scores.parent, "blocks") == read(done, "blocks")


@pytest.mark.slow
def test_two_processes_find_the_same_blocks(done, vitc):
    """Trials are spread over both; their scores are equal to the bit, and the network trained on agrees to rounding."""
    keys = ("teacher.train=false", f"teacher.run={done}")
    ranks = vitc.run_ranks(2, "train", "dcvit_digits", *UNTAUGHT, *keys)
    assert [rank.code for rank in ranks] == [0, 0], ranks[0].error
    run = run_of(vitc.place)
    one_alone, other_alone = (read(path, "blocks") for path in (run, done))
    assert one_alone == other_alone
    assert torch.equal(*(load_file(path / "synthetic.safetensors")["images"] for path in (run, done)))
    for stage in STAGES[1:]:
        one, two = (torch.load(path / "checkpoints" / stage / "last.ckpt", weights_only=True)["state_dict"]
                    for path in (run, done))  # fmt: skip
        exact = stage.startswith("trials")
        for name, weight in one.items():
            torch.testing.assert_close(weight, two[name], rtol=0, atol=0 if exact else 2e-3)


# Ablations, each by one override; those that meet nowhere share a run

ABLATIONS = [
    "method.finetune=one_shot method.init=reinit method.score=mse",
    "method.trained=whole method.extra_blocks=1 method.matched=class",
    "method.init=least_squares method.score_on=training",
    "method.units=activation callbacks.progressive_block_dropping.beyond=2",
]


@pytest.mark.slow
@pytest.mark.parametrize("override", ABLATIONS)
def test_ablations(done, vitc, override):
    keys = ("teacher.train=false", f"teacher.run={done}", "budget.drop_blocks=null", "budget.macs=75%")
    keys = (*keys, *override.split())
    finished = vitc("train", "dcvit_digits", *UNTAUGHT, *keys)
    assert finished.code == 0, finished.error
    names = {path.name for path in (run_of(vitc.place) / "checkpoints").iterdir()}
    assert ("one_shot" in names) == ("one_shot" in override)
    assert len(read(run_of(vitc.place), "result")["rows"][0]["blocks"]) == 2 + ("extra_blocks" in override)
    assert (run_of(vitc.place) / "synthetic.png").exists() == ("training" not in override)


@pytest.mark.slow
@pytest.mark.parametrize("init", ["reuse", "least_squares"])
def test_no_hidden_unit(done, vitc, init):
    """What is left of a block is FC2's bias: dropping two whole blocks, counted in full."""
    keys = ("teacher.train=false", f"teacher.run={done}", "budget.convention=full", f"method.init={init}")
    finished = vitc("train", "dcvit_digits", *UNTAUGHT, *keys)
    assert finished.code == 0, finished.error
    row = read(run_of(vitc.place), "result")["rows"][0]
    assert (row["hidden"], len(row["blocks"])) == (0, 2)
    exported = vitc("export", str(run_of(vitc.place)), "--out", "small")
    assert exported.code == 0, exported.error
    network, images = pipeline_of(run_of(vitc.place)).networks[-1], torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(load(vitc.place / "small")(images), network.module(images), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_units_by_activation_are_stored(done, vitc):
    """Those of the network that the block was compressed in."""
    keys = ("teacher.train=false", f"teacher.run={done}", "budget.drop_blocks=1", "method.units=activation")
    finished = vitc("train", "dcvit_digits", *UNTAUGHT, *keys)
    assert finished.code == 0, finished.error
    run = run_of(vitc.place)
    best, second = read(run, "blocks")["order"][:2]
    pipeline, units = pipeline_of(run), read(run, "hidden_units")
    images = pipeline.data.images_of("train")
    hidden = read(run, "result")["rows"][0]["hidden"]
    assert units[str(best)] == active_units(pipeline.dense(), best, hidden, images).tolist()
    candidate = Stages.of(pipeline).trials()[best]
    assert units[str(second)] == active_units(candidate, second, hidden, images).tolist()


def test_one_more_block(vitc):
    planned = vitc("plan", "dcvit_digits", *TINY, "model.depth=7", "method.extra_blocks=1", "--json")
    assert json.loads(planned.out)["plan"]["blocks"] == 4


# What is refused

REFUSED = [
    ("data.num_samples=5000", "data.num_samples: digits has 1,259 training images; not 5,000"),
    ("budget.drop_blocks=4", r"budget.macs: .* needs 5 blocks, and 3 are candidates \(method.candidates\)"),
    ("method.candidates=[1,7]", "method.candidates: there is no block 7; the network has 0 to 4"),
    ("method.candidates=[]", "method.candidates: empty"),
    ("budget.macs=99%", r"budget.macs: .* cannot be reached; the nearest that can is [\d,]+ \(9\d\.\d+ %\)"),
    ("budget.macs=100%", r"budget.macs: .* is the dense network, of which nothing is to be compressed; the nearest"),
    ("budget.round_to=4", "budget.round_to: the method 'dcvit' does not know it; it takes macs, params, drop_blocks"),
    ("callbacks.progressive_block_dropping=false", "callbacks.progressive_block_dropping: missing, dcvit needs it"),
    ("trainer.max_epochs=null", "trainer.max_epochs: missing"),
    ("model.img_size=10", "model.img_size: 10 is not divisible by model.patch_size=4"),
    ("method.score=accuracy", "method.score: 'accuracy' is not one of kl, mse"),
    ("method.synthetic.beta=0", "method.synthetic.beta: 0 is out of range"),
    ("method.synthetic.warmup=6", "method.synthetic.warmup: 6 leaves nothing of method.synthetic.iterations=6"),
    ("trainer.precision=bf16-true", "trainer.precision: bf16-true rounds the weights of dcvit's candidates; use bf16"),
    ("trainer.precision=16-true", "trainer.precision: 16-true rounds the weights of dcvit's candidates; use 16-mixed"),
    ("trainer.precision=64-true", "trainer.precision: 64-true is not that of the network which dcvit is compared with"),
    ("data.mixup=0.5", "data.mixup: 0.5 changes labels, and dcvit reads none; set it to 0"),
    ("data.cutmix=1", "data.cutmix: 1.* changes labels, and dcvit reads none; set it to 0"),
    ("data.smoothing=0.1", "data.smoothing: 0.1 changes labels, and dcvit reads none; set it to 0"),
    ("data.few_shot=false", "data.few_shot: false; dcvit holds its few training images in memory; set it to true"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), REFUSED, ids=[override for override, _ in REFUSED])
def test_refused_in_one_line_with_nothing_written(vitc, override, message):
    refused = train(vitc, override)
    assert (refused.code, refused.out) == (2, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", refused.error), refused.error
    assert not (vitc.place / "runs").exists()


def test_an_untrained_original(vitc):
    refused = vitc("train", "dcvit_digits", *UNTAUGHT, "teacher.train=false")
    assert refused.code == 2
    assert refused.error.startswith("error: model.pretrained: dcvit compresses a trained network; set it, or ")
    assert not (vitc.place / "runs").exists()


def test_two_blocks_have_no_candidate(vitc):
    refused = train(vitc, "model.depth=2", "budget.macs=80%")
    message = "method.candidates: 2 blocks have none between the first and the last; name some"
    assert (refused.code, refused.error) == (2, f"error: {message}\n")


def test_a_teacher_of_other_images(done, vitc):
    other = ("teacher.train=false", f"teacher.run={done}", "model.img_size=16")
    refused = vitc("train", "dcvit_digits", *UNTAUGHT, *other)
    assert refused.code == 2
    message = "teacher: it sees images of 1 x 8 x 8, the student 1 x 16 x 16; they must agree"
    assert refused.error == f"error: {message}\n"
    assert not run_of(vitc.place).exists() or [file.name for file in run_of(vitc.place).iterdir()] == [".lock"]


def test_no_room_for_the_candidates(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10**4})())
    experiment = load_experiment("dcvit_digits", [*TINY, f"output_dir={tmp_path}"])
    with pytest.raises(UserError, match=r"^output_dir: 3 candidates take up to .* free; name another place") as caught:
        DCViT.pipeline(Pipeline(experiment, RunDirectory(tmp_path / "run")))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_compressed_model_is_not_compressed_again(done, vitc):
    refused = vitc("plan", "dcvit_digits", f"model.name={done}", *(f"model.{key}=null" for key in (
        "img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads")))  # fmt: skip
    assert (refused.code, "is already pruned; start from a dense model" in refused.error) == (2, True)
