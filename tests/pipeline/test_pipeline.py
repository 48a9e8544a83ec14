"""Stages: what they start from, that they are trained once, and where teachers come from."""

import math
import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import VisionTransformer

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.files.records import opened
from lightning_vitc.methods.dense import Dense
from lightning_vitc.methods.scala import Scala
from lightning_vitc.networks.backbone import Backbone
from lightning_vitc.networks.spec import ArchSpec
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.pipeline.stages import _mark_done
from lightning_vitc.runs.directory import RunDirectory


@pytest.fixture
def pipeline(tmp_path, tiny):
    """`pipeline("teacher.train=false")`: of `scala_digits`, in a directory of its own."""

    def make(*overrides: str, path: Path | None = None) -> Pipeline:
        overrides = (*tiny, "trainer.enable_progress_bar=false", f"output_dir={tmp_path}", *overrides)
        return Pipeline(load_experiment("scala_digits", overrides), RunDirectory(path or tmp_path / "run"))

    return make


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# Stages


def test_a_stage_starts_from_weights_of_its_name_and_seed(pipeline):
    starts = []

    def start(stage: str, seed: int) -> dict[str, torch.Tensor]:
        run = pipeline(f"seed={seed}", "trainer.max_steps=1", path=Path(f"{pipeline().directory.path}-{len(starts)}"))
        torch.rand(len(starts))  # whatever a stage before it drew

        def build() -> Dense:
            module = Dense(run.backbone(), run.optimizer)
            starts.append(state(module))
            return module

        run.fit(stage, build)
        return starts[-1]

    assert equal(start("a", 0), start("a", 0))
    assert not equal(start("a", 0), start("b", 0))
    assert not equal(start("a", 0), start("a", 1))


def test_a_finished_stage_is_loaded(pipeline, read_metrics):
    run = pipeline("trainer.max_epochs=2")
    first = run.fit("dense", lambda: Dense(run.backbone(), run.optimizer), epochs=3)
    folder = run.directory.stage("dense")
    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    done = opened((folder / "done.json").read_bytes())
    assert (done["weights"], done["steps"], done["epochs"]) == ("best.ckpt", 48, 3)
    again = pipeline()
    second = again.fit("dense", lambda: Dense(again.backbone(), again.optimizer))
    assert equal(state(first), state(second))
    assert again.seconds == run.seconds == {"dense": done["seconds"]}
    assert equal(state(second), torch.load(folder / "best.ckpt", weights_only=True)["state_dict"])
    assert not second.training
    assert files == {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert sum("val/top1" in line for line in read_metrics(run.directory.path)) == 3


def test_without_validation_the_last_weights_are_kept(pipeline):
    run = pipeline("trainer.max_steps=3", "trainer.limit_val_batches=0")
    module = run.fit("dense", lambda: Dense(run.backbone(), run.optimizer))
    folder = run.directory.stage("dense")
    assert opened((folder / "done.json").read_bytes())["weights"] == "last.ckpt"
    assert equal(state(module), torch.load(folder / "last.ckpt", weights_only=True)["state_dict"])


@pytest.mark.parametrize(("select", "weights"), [("best", "best.ckpt"), ("last", "last.ckpt")])
def test_which_weights_of_a_stage_count(tmp_path, select, weights):
    trainer = SimpleNamespace(global_step=96, current_epoch=3, checkpoint_callback=SimpleNamespace(elapsed=1.5))
    (tmp_path / "best.ckpt").touch()
    _mark_done(tmp_path, trainer, select)
    assert opened((tmp_path / "done.json").read_bytes()) == {
        "weights": weights, "steps": 96, "epochs": 3, "seconds": 1.5,
    }  # fmt: skip


def test_a_stage_that_was_done_but_not_marked_is_not_trained_on(pipeline):
    """Killed between the last checkpoint and `done.json`."""
    run = pipeline("trainer.max_epochs=1")
    first = run.fit("dense", lambda: Dense(run.backbone(), run.optimizer))
    done = run.directory.stage("dense") / "done.json"
    before = opened(done.read_bytes())
    done.unlink()
    again = pipeline("trainer.max_epochs=1")
    second = again.fit("dense", lambda: Dense(again.backbone(), again.optimizer))
    assert equal(state(first), state(second))
    after = opened(done.read_bytes())
    assert after.pop("seconds") == pytest.approx(before.pop("seconds"), abs=0.5)
    assert after == before


def test_killed_at_the_end_a_stage_keeps_no_more_than_one_that_was_not(pipeline, monkeypatch):
    run = pipeline("trainer.max_epochs=2")

    class Killed(BaseException):
        pass

    def killed(folder: Path) -> None:
        assert (folder / "previous.ckpt").exists()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("lightning_vitc.pipeline.stages.drop_previous", killed)
        with pytest.raises(Killed):
            run.fit("dense", lambda: Dense(run.backbone(), run.optimizer))
    pipeline("trainer.max_epochs=2").fit("dense", lambda: Dense(run.backbone(), run.optimizer))
    files = sorted(file.name for file in run.directory.stage("dense").iterdir())
    assert files == ["best.ckpt", "done.json", "last.ckpt"]


def test_the_checkpoint_is_primitives_and_tensors(finished):
    for file in finished.rglob("*.ckpt"):
        torch.load(file, weights_only=True)  # refuses any other object


# Networks


def test_a_narrow_backbone_is_a_plain_network_of_that_width(pipeline):
    run = pipeline()
    full, half = run.backbone(), run.backbone(Fraction(1, 2))
    assert (full.spec.embed_dim, half.spec.embed_dim) == (48, 24)
    assert half.spec == ArchSpec.of(half)
    assert half.spec.num_classes == 10
    assert (full.spec.options.scale, half.spec.options.scale) == (
        8**-0.5,
        4**-0.5,
    )  # that of its own heads: it is no slice
    assert half.pretrained_cfg is not None


def test_rows_are_the_accuracies_of_the_standalone_networks(finished, pipeline):
    run = pipeline(path=finished)
    Scala.pipeline(run)
    dense, rows = run.rows()
    document = opened((finished / "result.json").read_bytes())
    assert [row.as_dict() for row in [dense, *rows]] == [document["dense"], *document["rows"]]
    loader = run.data.test_dataloader()
    images, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
    for network, row in zip(run.networks, [dense, *rows], strict=True):
        assert isinstance(network.module, VisionTransformer)
        assert not isinstance(network.module, Backbone)
        with torch.no_grad():
            hits = (network.module(images).argmax(-1) == targets).float().mean()
        assert row.top1 == pytest.approx(100 * float(hits), abs=1e-3)


@pytest.mark.parametrize(
    ("tag", "crop"),
    [
        ("vit_base_patch16_clip_384.openai_ft_in12k_in1k", ("squash", 0.95)),
        ("deit_tiny_patch16_224", ("center", 0.9)),
    ],
)
def test_preprocessing_is_the_whole_of_timms(pipeline, tag, crop):
    own = ("model.in_chans=3", "data.name=fake", "data.mean=null", "data.std=null")
    found = pipeline(f"model.name={tag}", *own).data.preprocessing
    expected = resolve_data_config({"input_size": (3, 8, 8)}, pretrained_cfg=get_pretrained_cfg(tag).to_dict())
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in expected.items()}
    assert found == plain | {"exif": False}
    assert (found["crop_mode"], found["crop_pct"]) == crop


# Teachers


def test_teacher_trained_here(finished, pipeline):
    run = pipeline(path=finished)
    teacher = run.teacher()
    saved = torch.load(finished / "checkpoints" / "dense" / "best.ckpt", weights_only=True)["state_dict"]
    assert equal({f"backbone.{name}": value for name, value in teacher.network.state_dict().items()}, saved)
    assert [network.name for network in run.networks] == ["dense"]
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_the_keys_of_the_teacher_are_those_of_its_stage(pipeline, monkeypatch):
    own = {"lr": 0.5, "weight_decay": 0.25, "warmup_epochs": 2.0}
    images = {"batch_size": 32, "mixup": 0.3, "cutmix": 0.7, "smoothing": 0.2}
    run, seen = pipeline("teacher.epochs=7", *(f"teacher.{key}={value}" for key, value in (own | images).items())), {}
    data, recipe = run.teacher_recipe()
    assert {key: getattr(recipe, key) for key in own} == own
    assert {key: getattr(data.config, key) for key in images} == images
    monkeypatch.setattr(run, "add_row", lambda *_: None)
    monkeypatch.setattr(run, "fit", lambda *_, **keys: seen.update(keys) or SimpleNamespace(backbone=run.backbone()))
    run.dense()
    assert (seen["epochs"], seen["data"].config) == (7, data.config)


def test_teacher_of_timm_with_a_file(pipeline, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1).eval()
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    run = pipeline(
        "teacher.train=false", "teacher.model=test_resnet", f"teacher.pretrained={tmp_path}/teacher.safetensors"
    )
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(run.teacher()(images), network(images))
    assert not run.networks  # the table has no row of it


def test_teacher_file_of_other_classes(pipeline, tmp_path):
    network = timm.create_model("test_resnet", num_classes=7, in_chans=1)
    save_file(network.state_dict(), tmp_path / "teacher.safetensors")
    run = pipeline(
        "teacher.train=false", "teacher.model=test_resnet", f"teacher.pretrained={tmp_path}/teacher.safetensors"
    )
    message = (
        r"teacher\.safetensors: its classifier is for 7 classes, the model's for 10; "
        "a teacher needs one for the classes of the data$"
    )
    with pytest.raises(UserError, match=message):
        run.teacher()


def test_random_teacher_in_a_dry_run(pipeline):
    run = pipeline("teacher.train=false", "teacher.model=test_resnet", "data.name=fake", "data.num_classes=10")
    with pytest.warns(UserWarning, match="^data.name=fake is a dry run: the teacher keeps random weights$"):
        assert run.teacher() is not None


def test_no_teacher(pipeline):
    assert pipeline("teacher.train=false").teacher() is None


def test_a_complete_run_needs_no_teacher_of_timm(finished, pipeline, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    run = pipeline("teacher.train=false", "teacher.model=test_resnet", "teacher.pretrained=true")  # no hub here
    assert run.teacher() is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["data.num_classes=5"], "teacher: it has 5 classes, the student 10; they must agree"),
        (["model.img_size=16"], "teacher: it sees images of 1 x 16 x 16, the student 1 x 8 x 8; they must agree"),
        (["model.in_chans=3"], "teacher: it sees images of 3 x 8 x 8, the student 1 x 8 x 8; they must agree"),
    ],
)
def test_a_run_of_another_task_does_not_teach(pipeline, tmp_path, vitc, tiny, change, message):
    other = [key for key in tiny if not key.startswith(("method", "trainer"))]
    options = ("data.name=glyphs", "trainer.max_epochs=1", "trainer.max_steps=1", "data.num_classes=10")
    done = vitc("train", "dense_digits", *other, *options, "model.img_size=8", *change)
    assert done.code == 0, done.error
    done = vitc("train", "scala_digits", *tiny, "teacher.train=false", "teacher.run=runs/dense_digits/default")
    assert (done.code, done.error) == (2, f"error: {message}\n")


def test_a_run_without_a_finished_dense_network_does_not_teach(finished, pipeline, tmp_path):
    shutil.copytree(finished, tmp_path / "other")
    (tmp_path / "other" / "checkpoints" / "dense" / "done.json").unlink()
    run = pipeline("teacher.train=false", f"teacher.run={tmp_path}/other")
    with pytest.raises(UserError, match=r"^teacher\.run: .*/other has no finished dense stage; train it with"):
        run.teacher()


def test_nothing_is_infinite(finished):
    assert all(math.isfinite(row["top1"]) for row in opened((finished / "result.json").read_bytes())["rows"])


def test_the_teacher_of_a_few_shot_run_sees_all_images(tmp_path):
    keys = ["model.depth=3", "teacher.epochs=1", "teacher.warmup_epochs=0", "teacher.cutmix=0.3",
            f"output_dir={tmp_path}"]  # fmt: skip
    run = Pipeline(load_experiment("dcvit_digits", keys), RunDirectory(tmp_path / "run"))
    data, recipe = run.teacher_recipe()
    assert (data.sizes["train"], run.data.sizes["train"]) == (1259, 50)
    assert (data.config.batch_size, data.config.mixup, data.config.smoothing) == (32, 0.5, 0.1)
    assert (data.config.cutmix, run.data.config.cutmix) == (0.3, 0.0)
    assert (recipe.lr, recipe.weight_decay, run.optimizer.weight_decay) == (2e-3, 0.05, 1e-4)
    plain = Pipeline(load_experiment("uvc_digits", [f"output_dir={tmp_path}"]), RunDirectory(tmp_path / "other"))
    assert plain.teacher_recipe() == (plain.data, plain.optimizer)


def test_a_decision_is_made_once(pipeline):
    run = pipeline()
    made = []

    def decide() -> dict[str, int]:
        made.append(1)
        return {"number": len(made)}

    assert run.record("choice", decide) == run.record("choice", decide) == {"number": 1}
    assert pipeline().record("choice", decide) == {"number": 1}
    other = Pipeline(run.experiment, run.directory, read_only=True)
    assert other.record("choice", decide) == {"number": 1}
    with pytest.raises(UserError, match=r"another.json is not there; continue the run with 'vitc train'"):
        other.record("another", decide)


def test_spread_stages_are_those_trained_one_by_one(pipeline):
    run = pipeline("trainer.max_steps=3", "teacher.train=false")
    stages = {name: lambda: Dense(run.backbone(), run.optimizer) for name in ("a", "b")}
    one, two = run.spread(stages)
    assert not equal(state(one), state(two))
    again = pipeline("trainer.max_steps=3", "teacher.train=false", path=run.directory.path.with_name("other"))
    alone = again.fit("b", lambda: Dense(again.backbone(), again.optimizer), select="last", validate=False)
    assert equal(state(two), state(alone))
    done = opened((run.directory.stage("a") / "done.json").read_bytes())
    assert (done["weights"], done["steps"]) == ("last.ckpt", 3)
