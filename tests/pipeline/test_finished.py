"""`vitc evaluate` and `vitc export` of a finished run, and of what was exported."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import lightning_vitc
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.files.records import opened
from lightning_vitc.pipeline.initial_network import template
from lightning_vitc.pipeline.pipeline import Pipeline
from lightning_vitc.runs.directory import RunDirectory
from lightning_vitc.schema import ModelConfig

SIZES = {"validation": 179, "test": 359}  # of digits


@pytest.fixture(scope="session")
def document(finished):
    return opened((finished / "result.json").read_bytes())


def rows_of(document: dict) -> dict[str, dict]:
    """Name, MACs, parameters and accuracies by name."""
    rows = [document["dense"], *document["rows"]]
    return {row["name"]: {key: row[key] for key in ("macs", "params", "top1", "top5")} for row in rows}


@pytest.fixture
def evaluate(vitc):
    """`evaluate(SOURCE, ...)` -> rows by name, from the only document on stdout."""

    def evaluate(*arguments: object) -> dict[str, dict]:
        done = vitc("evaluate", *map(str, arguments), "--json")
        assert (done.code, done.error) == (0, "")
        rows, split = json.loads(done.out), "validation" if "validation" in arguments else "test"
        assert {(row.pop("split"), row.pop("images")) for row in rows} == {(split, SIZES[split])}
        return {row.pop("name"): row for row in rows}

    return evaluate


@pytest.fixture
def export(vitc):
    def export(run: Path, out: str, *arguments: str) -> Path:
        done = vitc("export", str(run), "--out", out, *arguments)
        assert (done.code, done.error) == (0, ""), done.error
        assert done.out.startswith(f"{out}: width_")
        return vitc.place / out

    return export


# Evaluating


def test_evaluate_gives_the_table_again(finished, evaluate, document):
    assert evaluate(finished) == rows_of(document)


@pytest.mark.parametrize("width", ["0.5", "0.50", "1/2", ".5"])
def test_evaluate_one_width(finished, evaluate, document, width):
    assert evaluate(finished, "--width", width) == {"width_0.50": rows_of(document)["width_0.50"]}


def test_evaluate_the_validation_split(finished, evaluate, read_metrics):
    """The accuracies that selected the checkpoint: every width of the best epoch."""
    rows = evaluate(finished, "--split", "validation")
    validated = [line for line in read_metrics(finished) if line["stage"] == "scala" and "val/top1" in line]
    best = max(validated, key=lambda line: line["val/top1"])
    for name in ("width_0.25", "width_0.50", "width_0.75", "width_1.00"):
        assert rows[name]["top1"] == pytest.approx(best[f"{name}/val_top1"], abs=1e-3)


def test_evaluate_for_people(finished, vitc, document):
    done = vitc("evaluate", str(finished))
    row = document["dense"]
    assert done.out.splitlines()[:2] == [
        "test split, 359 images:", f"dense: top-1 {row['top1']:.2f} %, top-5 {row['top5']:.2f} % ({row['macs']:,} MACs)"
    ]  # fmt: skip
    assert len(done.out.splitlines()) == 6


def test_a_run_may_be_moved(finished, evaluate, document, vitc):
    shutil.copytree(finished, vitc.place / "moved")
    assert evaluate("moved", "data.eval_batch_size=77") == rows_of(document)


# Exporting


def test_what_is_exported_is_what_was_tested(finished, evaluate, export, document):
    directory = export(finished, "half", "--width", "0.5")
    assert evaluate("half") == {"half": rows_of(document)["width_0.50"]}
    assert evaluate("half", "--split", "validation").keys() == {"half"}
    run = Pipeline(load_experiment(str(finished / "config.yaml")), RunDirectory(finished))
    lightning_vitc.Scala.pipeline(run)
    (network,) = [network for network in run.networks if network.name == "width_0.50"]
    model, images = lightning_vitc.load(directory), torch.randn(7, 1, 8, 8)
    assert not model.training
    assert torch.equal(model(images), network.module(images))


def test_arch_json(finished, export, document):
    directory = export(finished, "half", "--width", "0.5")
    facts = opened((directory / "arch.json").read_bytes())
    row = rows_of(document)["width_0.50"]
    assert facts["method"] == "scala"
    assert facts["budget"] == {"width": 0.5}
    assert facts["accuracy"] == {"top1": row["top1"], "top5": row["top5"]}
    assert facts["preprocessing"]["mean"] == [0.5]
    assert facts["preprocessing"]["input_size"] == [1, 8, 8]
    assert (facts["preprocessing"]["crop_pct"], facts["preprocessing"]["crop_mode"]) == (1.0, "center")
    assert facts["provenance"]["seed"] == 0
    assert facts["experiment"]["method"]["name"] == "scala"
    card = (directory / "README.md").read_text()
    assert "| crop_pct | 1.0 |\n| crop_mode | center |" in card
    assert f"{row['top1']:.2f} %" in card
    assert f"{row['macs']:,}" in card


def test_export_without_a_width_is_the_widest(finished, export, evaluate, document):
    export(finished, "all")
    assert evaluate("all") == {"all": rows_of(document)["width_1.00"]}


def test_an_earlier_export_is_replaced(finished, export, evaluate, document):
    export(finished, "out", "--width", "0.25")
    export(finished, "out", "--width", "0.75")
    assert evaluate("out") == {"out": rows_of(document)["width_0.75"]}
    assert sorted(file.name for file in Path(export(finished, "out")).parent.iterdir() if "." not in file.name) == [
        "out"
    ]


def test_an_exported_directory_may_go_where_its_run_is_not(finished, export, evaluate, document, vitc):
    """Its experiment's files (pretrained weights, a teacher's run, an output folder) are not looked for."""
    directory = export(finished, "half", "--width", "0.5")
    facts = opened((directory / "arch.json").read_bytes())
    facts["experiment"]["output_dir"] = "/proc/nowhere"
    facts["experiment"]["teacher"].update(train=False, run="/nowhere")
    facts["experiment"]["model"]["pretrained"] = "/nowhere/weights.pth"
    (directory / "arch.json").write_text(json.dumps(facts))
    assert evaluate("half") == {"half": rows_of(document)["width_0.50"]}


# Refusals


@pytest.fixture
def place(finished, vitc):
    """A directory with a finished run, one that is not, and something else."""
    shutil.copytree(finished, vitc.place / "run")
    shutil.copytree(finished, vitc.place / "unfinished")
    (vitc.place / "unfinished" / "result.json").unlink()
    (vitc.place / "foreign").mkdir()
    (vitc.place / "foreign" / "notes.txt").write_text("mine")
    (vitc.place / "file").write_text("")
    (vitc.place / "nameless").mkdir()
    (vitc.place / "nameless" / "arch.json").write_text(json.dumps({"format": 1, "architecture": {}}))
    return vitc


REFUSALS = [
    (["evaluate", "nowhere"], "nowhere: no such directory; give a run or an exported model"),
    (["evaluate", "foreign"], "foreign: not a run directory: it has no config.yaml"),
    (["evaluate", "unfinished"], "unfinished: the run is not complete; continue it with 'vitc train'"),
    (["evaluate", "run", "--width", "0.3"], "--width: run has no width 0.3; it has 0.25, 0.5, 0.75, 1"),
    (["evaluate", "run", "--width", "half"], "width: 'half' is not a number; give a ratio such as 0.5"),
    (["evaluate", "run", "--split", "train"], None),
    (["evaluate", "run", "data.nme=x"], "data.nme: unknown key; did you mean 'data.name'?"),
    (["evaluate", "run", "model.depth=5"], "model.depth: run holds trained networks; leave the key out"),
    (["evaluate", "nameless"], "nameless: arch.json names no experiment, whose data to evaluate on"),
    (["export", "nowhere", "--out", "x"], "nowhere: not a run directory: it has no config.yaml"),
    (["export", "unfinished", "--out", "x"], "unfinished: the run is not complete; continue it with 'vitc train'"),
    (["export", "run", "--out", "x", "--width", "2"], "--width: run has no width 2; it has 0.25, 0.5, 0.75, 1"),
    (["export", "run", "--out", "foreign"],
     "--out: foreign is not empty and no exported model; name another directory"),
    (["export", "run", "--out", "file"], "--out: file is a file; name a directory"),
    (["export", "run", "--out", "/proc/x/y"], None),
    (["export", "run"], "vitc export: the following arguments are required: --out; see 'vitc export --help'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_refusals(place, arguments, message):
    done = place(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.error.count("\n") == 1
    assert done.error == f"error: {message}\n" if message else done.error.startswith("error: ")
    assert not (place.place / "x").exists()
    assert (place.place / "foreign" / "notes.txt").read_text() == "mine"


@pytest.fixture
def earlier(place):
    """The same, with a run of a version that stored no networks."""
    shutil.rmtree(place.place / "run" / "networks")
    return place


def test_a_run_of_an_earlier_version_is_read_from_its_checkpoints(earlier, evaluate, document):
    assert evaluate("run") == rows_of(document)
    with pytest.raises(UserError, match=r"^model.name: .*run is of an earlier version; start from an export of it$"):
        template(ModelConfig(str(earlier.place / "run")))


def test_damaged_networks_are_read_from_the_checkpoints(place, document):
    for name, content in (("models.json", b"{"), ("elastic/arch.json", b"{}"), ("elastic/model.safetensors", b"x")):
        file = place.place / "run" / "networks" / name
        whole = file.read_bytes()
        file.write_bytes(content)
        done = place("evaluate", "run", "--json")
        assert (done.code, done.error.count("\n")) == (0, 1)
        assert f": run/networks/{name}: " in done.error
        assert done.error.endswith("; the checkpoints of the run are read instead\n")
        assert [row["top1"] for row in json.loads(done.out)] == [row["top1"] for row in rows_of(document).values()]
        file.write_bytes(whole)


def test_a_stage_that_is_not_finished_is_not_trained(earlier):
    place = earlier
    folder = place.place / "run" / "checkpoints" / "scala"
    shutil.rmtree(folder)
    for arguments in (["evaluate", "run"], ["export", "run", "--out", "x"]):
        done = place(*arguments)
        message = "error: run: the stage 'scala' is not finished; continue it with 'vitc train'\n"
        assert (done.code, done.out, done.error) == (2, "", message)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["result.json", "checkpoints/dense/done.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_file_is_named(earlier, name, text):
    place = earlier
    (place.place / "run" / name).write_text(text)
    done = place("export", "run", "--out", "x")
    assert (done.code, done.out, done.error.count("\n")) == (2, "", 1)
    assert done.error.startswith(f"error: run/{name}: damaged: it ")


def test_a_flipped_bit_in_the_weights_of_a_finished_stage_is_found(earlier):
    place = earlier
    file = place.place / "run" / "checkpoints" / "scala" / "best.ckpt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = place("evaluate", "run")
    assert (done.code, done.out, done.error.count("\n")) == (2, "", 1)
    assert "scala/best.ckpt: damaged checkpoint: the checksum of " in done.error


def test_an_exported_network_has_one_width(finished, export, vitc):
    export(finished, "half", "--width", "0.5")
    done = vitc("evaluate", "half", "--width", "0.5")
    assert (done.code, done.error) == (2, "error: --width: half is one exported network; leave the option out\n")
