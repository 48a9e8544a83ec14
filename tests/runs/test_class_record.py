"""The names of classes from a folder into a run, an export and back: evaluation goes by names, whatever the order."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import lightning_vitc
from lightning_vitc.artifacts import artifact
from lightning_vitc.files.records import opened, opened_text
from lightning_vitc.pipeline.evaluation import near_chance

COLORS = {"c1": (250, 20, 20), "c2": (20, 250, 20), "c10": (20, 20, 250)}  # naturally ordered; sorted: c1, c10, c2
KEYS = (
    "data.name=folder", "model.name=deit_tiny_patch16_224", "model.img_size=8", "model.patch_size=4",
    "model.in_chans=3", "model.embed_dim=24", "model.num_heads=2", "model.depth=1", "data.batch_size=8",
    "data.mixup=0", "data.eval_batch_size=8", "optimizer.lr=1e-2", "optimizer.warmup_epochs=1",
    "trainer.max_epochs=8",
)  # fmt: skip


def paint(root: Path, **counts: int) -> Path:
    """Images of one color a class, with some noise."""
    random = np.random.RandomState(0)
    for split, count in counts.items():
        for name, color in COLORS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(color) + random.randint(-20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def colors(tmp_path_factory, finished_run) -> Path:
    """A finished run over three colors, the data beside it, and its export."""
    place = tmp_path_factory.mktemp("colors")
    paint(place / "data", train=16, val=4, test=6)
    finished_run(place, "dense_digits", *KEYS, f"data.root={place / 'data'}")
    return place


@pytest.fixture
def place(colors, vitc):
    """A copy of the run and of its data, to be changed."""
    shutil.copytree(colors / "runs", vitc.place / "runs")
    shutil.copytree(colors / "data", vitc.place / "data")
    return vitc


RUN = "runs/dense_digits/default"


@pytest.fixture
def evaluate(place):
    def evaluate(source: str = RUN, *arguments: str) -> tuple[float, str]:
        done = place("evaluate", source, "data.root=data", "--json", *arguments)
        assert done.code == 0, done.error
        return json.loads(done.out)[0]["top1"], done.error

    return evaluate


def refusal(done) -> str:
    assert (done.code, done.out, done.error.count("\n")) == (2, "", 1), done.error
    return done.error.removeprefix("error: ").removesuffix("\n")


def test_a_run_keeps_the_names(colors):
    assert opened_text((colors / RUN / "classes.txt").read_text()) == "c1\nc10\nc2\n"
    document = opened((colors / RUN / "result.json").read_bytes())
    assert document["classes"] == ["c1", "c10", "c2"]
    assert [row["top1"] for row in document["rows"]] == [100]


def test_evaluation_needs_no_training_images(evaluate, place):
    (place.place / "data" / "train" / "c1" / "0.png").write_bytes(b"")
    assert evaluate() == (100, "")
    shutil.rmtree(place.place / "data" / "train")
    assert evaluate() == (100, "")


def test_evaluation_of_some_classes(evaluate, place):
    """With `c1` gone, `c10` is the first folder: it is class 1 all the same."""
    for split in ("train", "val", "test"):
        shutil.rmtree(place.place / "data" / split / "c1")
    top1, said = evaluate()
    assert top1 == 100
    assert f"data.root: data has 2 of the 3 classes of {RUN}" in said


def test_a_renamed_class_is_one_line(place):
    (place.place / "data" / "test" / "c10").rename(place.place / "data" / "test" / "blue")
    done = place("evaluate", RUN, "data.root=data")
    assert (
        refusal(done) == f"data.root: data/test has the class folder 'blue' that {RUN} lacks; it has 'c1', 'c10', 'c2'"
    )


def test_the_record_of_the_result_serves_where_the_other_is_lost(evaluate, place):
    (place.place / RUN / "classes.txt").unlink()
    shutil.rmtree(place.place / "data" / "test" / "c1")
    assert evaluate()[0] == 100


# Earlier versions, which had no record and a natural order


@pytest.fixture
def earlier(place):
    """The same run as an earlier version leaves it: classes in natural order (their weights are of today's)."""
    run = place.place / RUN
    (run / "classes.txt").unlink()
    lines = (run / "config.yaml").read_text().splitlines(keepends=True)
    (run / "config.yaml").write_text("".join(line for line in lines if not line.startswith(("  classes:", "# digest"))))
    document = opened((run / "result.json").read_bytes())
    del document["classes"]
    (run / "result.json").write_text(json.dumps(document))
    return run


def test_a_run_of_an_earlier_version_keeps_its_order(earlier, evaluate):
    top1, said = evaluate()
    assert top1 == pytest.approx(33.3333)  # of today's order, so c2 and c10 are mixed up by the one it is taken for
    assert (
        f"{RUN}: of a version that ordered classes by the numbers in their names; it keeps that order "
        "('c2' is class 1, not 2)"
    ) in said


def test_the_order_of_an_earlier_version_can_be_named(earlier, evaluate, place):
    (place.place / "order").write_text("c1\nc10\nc2\n")
    assert evaluate(RUN, "data.classes=order") == (100, "")


def test_where_it_cannot_be_told_it_is_refused(earlier, place):
    for split in ("train", "val", "test"):
        (place.place / "data" / split / "c2").rename(place.place / "data" / split / "C1")
    assert refusal(place("evaluate", RUN, "data.root=data")).startswith(
        f"{RUN}: of a version that ordered the classes 'C1' and 'c1' as the disk did"
    )


# Continuing


@pytest.fixture
def unfinished(place):
    """Killed after its training."""
    (place.place / RUN / "result.json").unlink()
    return lambda *keys: place("train", "dense_digits", *KEYS, "data.root=data", *keys)


def test_a_run_continues_in_its_own_order(unfinished, place):
    (place.place / "order").write_text("c1\nc10\nc2\n")
    done = unfinished("data.classes=order")
    assert done.code == 0, done.error
    (place.place / RUN / "result.json").unlink()
    (place.place / "order").write_text("c2\nc10\nc1\n")
    assert refusal(unfinished("data.classes=order")) == (
        f"data.classes: {RUN} was begun with another order of classes than order; leave the key out to keep it, "
        "set run_name to another name, or use --fresh to start over"
    )


def test_a_folder_that_is_added_is_named(unfinished, place):
    shutil.copytree(place.place / "data" / "train" / "c1", place.place / "data" / "train" / "c3")
    assert refusal(unfinished()) == (
        f"data.root: data/train has the class folder 'c3' that {RUN} lacks; "
        "set run_name to another name, or use --fresh to start over"
    )


def test_a_run_of_an_earlier_version_continues_in_its_own_order(earlier, unfinished):
    """Where it has every other key of today."""
    done = unfinished()
    assert done.code == 0, done.error
    assert "it keeps that order ('c2' is class 1, not 2)" in done.error
    assert opened_text((earlier / "classes.txt").read_text()) == "c1\nc2\nc10\n"


# Exports


def test_an_export_keeps_the_names(evaluate, place):
    done = place("export", RUN, "--out", "out")
    assert done.code == 0, done.error
    shutil.rmtree(place.place / "data" / "train")
    shutil.rmtree(place.place / "data" / "test" / "c1")
    assert evaluate("out")[0] == 100
    out = place.place / "out"
    assert opened((out / "arch.json").read_bytes())["classes"] == ["c1", "c10", "c2"]
    assert lightning_vitc.load(out).classes == ("c1", "c10", "c2")
    assert "| classes | 3: c1, c10, c2 |" in (out / "README.md").read_text()


def test_an_export_of_an_earlier_version_keeps_its_order(evaluate, place):
    done = place("export", RUN, "--out", "out")
    assert done.code == 0, done.error
    document = opened((place.place / "out" / "arch.json").read_bytes())
    del document["classes"], document["experiment"]["data"]["classes"], document["files"]
    artifact.save(lightning_vitc.load(place.place / "out"), place.place / "old", document)
    top1, said = evaluate("old")
    assert top1 == pytest.approx(33.3333)
    assert "old: of a version that ordered classes by the numbers in their names; it keeps that order" in said


# A dense network of others


@pytest.mark.parametrize(("classes", "top1", "near"), [
    (2, 50, True), (2, 54, True), (2, 60, False), (3, 33.33, True), (3, 41, False), (10, 13.33, True),
    (10, 20, False), (10, 88.33, False), (1000, 0.4, True), (1000, 5, False),
])  # fmt: skip
def test_what_is_near_chance(classes, top1, near):
    assert near_chance(top1, classes) is near


@pytest.mark.slow
def test_a_pretrained_network_of_another_order_is_a_warning(place):
    """The network counts c1, c10, c2; with the last two exchanged a third of the images is right."""
    weights = torch.load(place.place / RUN / "checkpoints" / "dense" / "best.ckpt", weights_only=True)["state_dict"]
    save_file({name.removeprefix("backbone."): value for name, value in weights.items() if "backbone." in name},
              place.place / "dense.safetensors")  # fmt: skip
    (place.place / "order").write_text("c1\nc2\nc10\n")
    keys = [key for key in KEYS if not key.startswith(("trainer", "optimizer.warmup"))]
    short = ["trainer.max_epochs=1", "optimizer.warmup_epochs=0", "method.name=one_shot", "method.finetune_epochs=1",
             "budget.macs=60%", "data.root=data", "model.pretrained=dense.safetensors"]  # fmt: skip
    done = place("train", "dense_digits", *keys, *short, "data.classes=order", "run_name=other")
    assert done.code == 0, done.error
    assert "the pretrained dense model has 33.33 % on its own data, hardly more than chance" in done.error
    assert "Here it is 'c1', 'c2', 'c10'; data.classes gives another one" in done.error
    done = place("train", "dense_digits", *keys, *short, "run_name=same")
    assert done.code == 0, done.error
    assert "chance" not in done.error
