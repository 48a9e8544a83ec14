"""`vitc train` from end to end: what it leaves behind, and what it refuses."""

import fcntl
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_vitc.files.records import opened

STAGES, STEPS, EPOCHS = ("dense", "scala"), 16, 3
WIDTHS = {"width_0.25": 12, "width_0.50": 24, "width_0.75": 36, "width_1.00": 48}
REFUSAL = re.compile(r"error: .+\n")


def run_of(place: Path) -> Path:
    return place / "runs" / "scala_digits" / "default"


def macs(d: int) -> int:
    """4 patches of 16 pixels, 6 tokens, one block, two heads of 10 classes."""
    return 4 * 16 * d + 6 * 12 * d * d + 2 * 6 * 6 * d + 2 * 10 * d


def params(d: int) -> int:
    patches, tokens, norms, heads = 17 * d, 8 * d, 6 * d, 2 * (10 * d + 10)
    return patches + tokens + norms + heads + (3 * d * d + 3 * d) + (d * d + d) + (8 * d * d + 5 * d)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def best_weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / stage / "best.ckpt", weights_only=True)["state_dict"]


def accuracies(run: Path) -> list[dict[str, Any]]:
    document = opened((run / "result.json").read_bytes())
    return [document["dense"], *document["rows"]]


# What a run leaves behind


def test_result(finished):
    document = opened((finished / "result.json").read_bytes())
    assert document.keys() == {
        "experiment", "method", "seed", "split", "images", "left_out", "classes", "data", "wall_seconds", "dense",
        "rows", "budget", "environment",
    }  # fmt: skip
    assert document["classes"] == list("0123456789")
    assert [document[key] for key in ("experiment", "method", "seed")] == ["scala_digits", "scala", 0]
    assert document["wall_seconds"] > 0
    assert {"versions", "device", "commit", "threads"} <= document["environment"].keys()
    assert {"torch", "timm", "lightning", "lightning-vitc"} <= document["environment"]["versions"].keys()
    rows = {row["name"]: row for row in [document["dense"], *document["rows"]]}
    assert list(rows) == ["dense", *WIDTHS]
    for name, d in {"dense": 48, **WIDTHS}.items():
        row = rows[name]
        assert [row[key] for key in ("macs", "params", "bytes")] == [macs(d), params(d), 4 * params(d)]
        assert all(type(row[key]) is int for key in ("macs", "params", "bytes"))
        assert 0 <= row["top1"] <= row["top5"] <= 100
        assert row.get("width") == (None if name == "dense" else d / 48)
        assert round(row["top1"] * 359 / 100, 2) == pytest.approx(round(row["top1"] * 359 / 100), abs=1e-2)
    assert rows["dense"]["top1"] > 40
    assert rows["width_1.00"]["top1"] > 30


def test_table_and_epoch_lines(finished):
    text = (finished.parents[2] / "stdout").read_text()
    for name, share in zip(("dense", *WIDTHS), (100.0, 7.1, 26.1, 57.1, 100.0), strict=True):
        (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        row = next(row for row in accuracies(finished) if row["name"] == name)
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells == [
            name, f"{row['macs'] / 1e3:.3f} k", f"{share:.1f}", f"{row['params']:,}", f"{row['top1']:.2f}",
            f"{row['top5']:.2f}",
        ]  # fmt: skip
    assert len(re.findall(r"^(?:dense|scala): epoch [123]/3, train/loss \S+, val/top1.* \S+, \S+ s$", text, re.M)) == 6
    assert len(re.findall(r"^dense: .*, val/top1 \d", text, re.M)) == 3
    assert len(re.findall(r"^scala: .*, val/top1 \(mean of 4\) \d", text, re.M)) == 3
    assert "runs/scala_digits/default/result.json" in text
    assert " continues " not in text  # it began


def test_files(finished):
    assert (finished / "accuracy_over_macs.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (finished / "config.yaml").is_file()
    for stage in STAGES:
        done = opened((finished / "checkpoints" / stage / "done.json").read_bytes())
        assert done.pop("seconds") > 0
        assert done == {"weights": "best.ckpt", "steps": EPOCHS * STEPS, "epochs": EPOCHS}
        assert {file.name for file in (finished / "checkpoints" / stage).iterdir()} == {
            "best.ckpt", "last.ckpt", "done.json",
        }  # fmt: skip


def test_metrics_file(finished, read_metrics):
    lines = read_metrics(finished)
    for stage in STAGES:
        own = [line for line in lines if line["stage"] == stage]
        assert [line["step"] for line in own if "train/loss" in line] == list(range(3, EPOCHS * STEPS, 4))
        validated = [line for line in own if "val/top1" in line]
        assert [(line["epoch"], line["step"]) for line in validated] == [(0, 15), (1, 31), (2, 47)]
    for line in validated:
        assert line["val/top1"] == pytest.approx(sum(line[f"{name}/val_top1"] for name in WIDTHS) / 4)


def test_the_best_epoch_is_that_of_the_best_mean(finished, read_metrics):
    for stage in STAGES:
        validated = [line for line in read_metrics(finished) if line["stage"] == stage and "val/top1" in line]
        best = max(validated, key=lambda line: line["val/top1"])  # the first of equals
        saved = torch.load(finished / "checkpoints" / stage / "best.ckpt", weights_only=True)
        assert saved["epoch"] == best["epoch"]


def test_tensorboard(finished, read_metrics):
    board = finished / "tensorboard"
    drawn = scalars(board / "scala")
    assert {"train/loss", "val/top1", "lr-AdamW/pg1", "lr-AdamW/pg2"} <= drawn.keys()
    for name in WIDTHS:
        assert {f"{name}/val_top1", f"{name}/val_top5", f"{name}/train_loss"} <= drawn.keys()
    lines = [line for line in read_metrics(finished) if line["stage"] == "scala" and "val/top1" in line]
    assert drawn["val/top1"] == [(line["step"], pytest.approx(line["val/top1"])) for line in lines]
    assert drawn["lr-AdamW/pg1"][-1][1] < drawn["lr-AdamW/pg1"][3][1] <= 3e-3
    figure = EventAccumulator(str(board / "scala"), size_guidance={"images": 0}).Reload()
    assert [image.step for image in figure.Images("accuracy_over_macs")] == [15, 31, 47]


def test_tensorboard_has_the_hyperparameters_with_final_metrics(finished):
    events = EventAccumulator(str(finished / "tensorboard" / "result")).Reload()
    final = {row["name"]: row["top1"] for row in accuracies(finished)}
    drawn = scalars(finished / "tensorboard" / "result")
    assert drawn == {f"{name}/test_top1": [(0, pytest.approx(top1))] for name, top1 in final.items()}
    summary = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"optimizer.lr" in summary
    assert b"method.granularity" in summary
    assert events.Images("accuracy_over_macs")


# Running it again


def test_again_says_complete_and_changes_nothing(finished, tiny, vitc):
    vitc.place = finished.parents[2]
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.name != ".lock"}
    done = vitc("train", "scala_digits", *tiny)
    assert (done.code, done.error) == (0, "")
    assert done.out.startswith("runs/scala_digits/default is complete (use --fresh to start over)\n")
    assert " width_0.25 " in done.out
    assert before == {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.name != ".lock"}


def test_where_and_how_it_runs_may_change(finished, tiny, vitc):
    vitc.place = finished.parents[2]
    free = ("data.num_workers=2", "threads=2", "trainer.enable_progress_bar=false", "slurm.nodes=4")
    assert vitc("train", "scala_digits", *tiny, *free, "callbacks.checkpoint.every_n_steps=7").code == 0


@pytest.mark.slow
def test_fresh_starts_over(finished, tiny, vitc):
    shutil.copytree(finished.parents[2] / "runs", vitc.place / "runs")
    run = run_of(vitc.place)
    (run / "checkpoints" / "old").mkdir()
    done = vitc("train", "scala_digits", *tiny, "seed=1", "--fresh")
    assert done.code == 0, done.error
    assert not (run / "checkpoints" / "old").exists()
    assert opened((run / "result.json").read_bytes())["seed"] == 1
    assert len((run / "metrics.jsonl").read_text().splitlines()) == len(
        (finished / "metrics.jsonl").read_text().splitlines()
    )
    assert not torch.equal(*(best_weights(path, "scala")["backbone.head.weight"] for path in (run, finished)))


def test_few_shot_subset_is_noted(vitc, tiny):
    arguments = ("train", "dense_digits", *(key for key in tiny if "method" not in key), "trainer.max_epochs=1")
    done = vitc(*arguments, "data.num_samples=40", "data.few_shot=true", "seed=3")
    assert done.code == 0, done.error
    subset = opened((vitc.place / "runs" / "dense_digits" / "default" / "subset.json").read_bytes())
    assert len(set(subset["indices"])) == subset["num_samples"] == 40
    assert subset["seed"] == 3


@pytest.mark.parametrize(
    ("gone", "where"),
    [
        ((), "continues with the evaluation; all stages are finished"),
        (
            ("checkpoints/scala/done.json",),
            "continues stage scala after epoch 3 of 3, step 48, from checkpoints/scala/last.ckpt",
        ),
        (("checkpoints/scala",), "continues at the beginning of stage scala, of which there is no checkpoint"),
    ],
)
def test_a_run_that_continues_says_where(finished, vitc, tiny, gone, where):
    shutil.copytree(finished.parents[2] / "runs", vitc.place / "runs")
    for name in ("result.json", *gone):
        path = run_of(vitc.place) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = vitc("train", "scala_digits", *tiny)
    assert done.code == 0, done.error
    said = [line for line in done.out.splitlines() if " continues " in line]
    assert said == [f"runs/scala_digits/default {where}"]


# What is refused


def test_another_config(finished, tiny, vitc):
    vitc.place = finished.parents[2]
    done = vitc("train", "scala_digits", *tiny, "method.slice=per_qkv")
    assert (done.code, done.out) == (2, "")
    assert done.error == (
        "error: runs/scala_digits/default: holds a run with method.slice=per_head, this one has per_qkv; "
        "set run_name to another name, or use --fresh to start over\n"
    )


def test_validation_after_more_batches_than_there_are(vitc, tiny):
    done = vitc("train", "scala_digits", *tiny, "trainer.val_check_interval=1000")
    assert done.code == 2
    assert done.error == (
        "error: trainer.val_check_interval: 1000 is more than the 16 train batches of an epoch; give a smaller number, "
        "or trainer.check_val_every_n_epoch=null to count over epochs\n"
    )


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_directory_that_is_no_run(vitc, tiny, fresh):
    run_of(vitc.place).mkdir(parents=True)
    (run_of(vitc.place) / "thesis.tex").write_text("ten years of work")
    done = vitc("train", "scala_digits", *tiny, *fresh)
    assert (done.code, done.out) == (2, "")
    assert done.error.startswith("error: runs/scala_digits/default: not a run directory")
    assert REFUSAL.fullmatch(done.error)
    assert (run_of(vitc.place) / "thesis.tex").read_text() == "ten years of work"


def test_run_of_another_process(vitc, tiny):
    run_of(vitc.place).mkdir(parents=True)
    with (run_of(vitc.place) / ".lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        done = vitc("train", "scala_digits", *tiny)
    assert (done.code, done.out) == (2, "")
    assert done.error == (
        "error: runs/scala_digits/default: another process is running this run; wait for it or set run_name\n"
    )


def test_no_permission_to_write(vitc, tiny):
    done = vitc("train", "scala_digits", *tiny, "output_dir=/proc/runs")  # not even root may write there
    assert (done.code, done.out, done.error) == (2, "", "error: output_dir: /proc/runs: no permission to write\n")


REFUSED_STARTS = [
    ("model.embed_dim=42", "width: 0.25 of the embedding width 42 is 10.5, not a whole number"),
    ("model.name=nosuch", "model.name: unknown timm model 'nosuch'"),
    ("model.name=convnext_tiny", "convnext_tiny"),
    ("model.in_chans=2", "model.in_chans: "),
    ("data.batch_size=5000", "data.batch_size: 5000 is more than the 512 training images; at most 512"),
    ("data.num_samples=99999", "data.num_samples: "),
    ("optimizer.name=nosuch", "optimizer.name: 'nosuch' cannot be built by timm.optim"),
    ("trainer.accelerator=mps", "trainer.accelerator: there is no mps here; auto takes what there is"),
    ("trainer.profiler=xla", "trainer.profiler: xla needs torch_xla, which is not installed"),
    ("trainer.max_steps=0", "trainer.max_steps: 0 "),
    ("trainer.limit_train_batches=0", "trainer.limit_train_batches: 0 "),
    ("trainer.limit_test_batches=0", "trainer.limit_test_batches: 0 is not a number of batches (an integer > 0) "),
    ("trainer.limit_test_batches=0.0", "trainer.limit_test_batches: 0.0 is not a number of batches (an integer > 0) "),
    ("trainer.limit_train_batches=0.03", "trainer.limit_train_batches: 0.03 of the 16 train batches is less than one"),
    ("trainer.limit_val_batches=0.001", "trainer.limit_val_batches: 0.001 of the one val batch is less than one"),
    ("trainer.limit_test_batches=0.001", "trainer.limit_test_batches: 0.001 of the 2 test batches is less than one"),
    ("trainer.overfit_batches=0.01", "trainer.overfit_batches: 0.01 of the 16 train batches is less than one"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED_STARTS, ids=[override for override, _ in REFUSED_STARTS])
def test_a_start_that_is_refused_writes_nothing(vitc, tiny, override, message):
    done = vitc("train", "scala_digits", *tiny, override)
    assert (done.code, done.out) == (2, "")
    assert REFUSAL.fullmatch(done.error)
    assert message in done.error
    assert not (vitc.place / "runs").exists()


def test_a_refusal_while_the_run_starts_leaves_no_run(vitc, tiny):
    save_file({"weight": torch.zeros(1)}, vitc.place / "other.safetensors")
    done = vitc("train", "scala_digits", *tiny, "model.pretrained=other.safetensors")
    assert (done.code, "other.safetensors: not a checkpoint of this model" in done.error) == (2, True)
    assert not (vitc.place / "runs").exists()


def test_a_refused_start_over_leaves_the_run_there(finished, vitc, tiny):
    shutil.copytree(finished.parents[2] / "runs", vitc.place / "runs")
    for override in ("optimizer.name=nosuch", "trainer.accelerator=mps"):
        assert vitc("train", "scala_digits", *tiny, override, "--fresh").code == 2
        assert (run_of(vitc.place) / "result.json").is_file()


# Interruptions (see also `test_kill_resume.py`)


def lines_of(run: Path, stage: str) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count(f'"stage": "{stage}"') if path.exists() else 0


@pytest.mark.slow
def test_workers_of_a_killed_process_do_not_hold_the_run(vitc, tiny):
    arguments = ("train", "scala_digits", *tiny, "data.num_workers=2", "teacher.train=false")
    assert vitc.kill_when(lambda: lines_of(run_of(vitc.place), "scala") >= 10, *arguments)
    done = vitc(*arguments)  # at once: the workers notice after some seconds that their parent is gone
    assert done.code == 0, done.error


# Other starts


def test_teacher_of_another_run(finished, tiny, vitc):
    arguments = ("train", "scala_digits", *tiny, "trainer.max_epochs=1", "teacher.train=false")
    done = vitc(*arguments, f"teacher.run={finished}")
    assert done.code == 0, done.error
    run = run_of(vitc.place)
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["scala"]
    assert accuracies(run)[0] == accuracies(finished)[0]


@pytest.mark.slow
def test_dry_run_of_an_imagenet_recipe(vitc):
    small = ("model.img_size=32", "model.embed_dim=192", "model.depth=2", "teacher.model=deit_tiny_patch16_224")
    dry = (
        "data.name=fake",
        "data.batch_size=4",
        "data.num_workers=0",
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
    )
    done = vitc("train", "scala_deit_b", *small, *dry, "method.full_warmup_epochs=0")
    assert done.code == 0, done.error
    document = opened((vitc.place / "runs" / "scala_deit_b" / "default" / "result.json").read_bytes())
    assert [row["width"] for row in document["rows"]] == [number / 16 for number in range(4, 17)]
    saved = torch.load(vitc.place / "runs/scala_deit_b/default/checkpoints/scala/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert document["dense"] is None  # the teacher is no network of this run


def test_steps_without_epochs(vitc, tiny):
    """The schedule's length is then the number of steps."""
    arguments = [key for key in tiny if "max_epochs" not in key and "method" not in key]
    done = vitc("train", "dense_digits", *arguments, "trainer.max_epochs=null", "trainer.max_steps=6")
    assert done.code == 0, done.error
    run = vitc.place / "runs" / "dense_digits" / "default"
    assert opened((run / "checkpoints" / "dense" / "done.json").read_bytes())["steps"] == 6
