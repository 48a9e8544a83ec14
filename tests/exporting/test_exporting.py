"""`vitc export` in several formats and widths, and `vitc evaluate` of what it wrote."""

import json
import shutil
from pathlib import Path

import onnxruntime
import pytest
import timm
import torch

import lightning_vitc
from lightning_vitc.errors import RunFailure

FORMATS = "safetensors,onnx,pt2,int8,timm"


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    """The half-width network of a run in every format."""
    from lightning_vitc.exporting.exporting import export

    place = tmp_path_factory.mktemp("exported") / "half"
    assert export(str(finished), str(place), width="0.5", formats=FORMATS.split(","), license_name="mit") == [
        "width_0.50"
    ]
    return place


@pytest.fixture(scope="module")
def row(finished) -> dict:
    rows = json.loads((finished / "result.json").read_text())["rows"]
    return next(row for row in rows if row["name"] == "width_0.50")


def evaluated(vitc, *arguments: object) -> list[dict]:
    done = vitc("evaluate", *map(str, arguments), "--json")
    assert (done.code, done.error) == (0, "")
    rows = json.loads(done.out)
    assert {(row.pop("split"), row.pop("images")) for row in rows} == {("test", 359)}
    return rows


# Formats


def test_every_format_was_checked(exported, row):
    formats = json.loads((exported / "arch.json").read_text())["formats"]
    assert list(formats) == FORMATS.split(",")
    for form in ("safetensors", "onnx", "pt2"):
        assert (formats[form]["top1"], formats[form]["top5"]) == (row["top1"], row["top5"])
    for form in ("onnx", "pt2", "timm"):
        assert 0 <= formats[form]["max_difference"] < 1e-4
    assert formats["int8"]["max_difference"] > 1e-4  # measured, and of 8 bits
    assert abs(formats["int8"]["top1"] - row["top1"]) < 3
    for form, name in (("onnx", "model.onnx"), ("safetensors", "model.safetensors")):
        assert formats[form]["bytes"] == (exported / name).stat().st_size


def test_the_card_tells_how_to_load_each(exported, row):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: lightning-vitc\n")
    for shown in ("license: mit", "- digits", "| width | 0.5 |", f"| top1 | {row['top1']:.2f} % |", "% of dense)",
                  "`model.int8.onnx`", 'onnxruntime.InferenceSession("model.onnx"', "torch.export.load",
                  'timm.create_model("local-dir:timm"', "| seed | 0 |", f"| torch | {torch.__version__.split('+')[0]}",
                  "| data | digits, test split, 359 images |"):  # fmt: skip
        assert shown in card, shown


def test_all_of_them_compute_the_same(exported):
    model, images = lightning_vitc.load(exported), torch.randn(3, 1, 8, 8)
    others = [timm.create_model(f"local-dir:{exported / 'timm'}", pretrained=True).eval(),
              torch.export.load(exported / "model.pt2").module()]  # fmt: skip
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    with torch.no_grad():
        wanted = model(images)
        found = [
            torch.from_numpy(session.run(None, {"images": images.numpy()})[0]),
            *(other(images) for other in others),
        ]
    for logits in found:
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 400])
def test_every_format_is_evaluated_to_the_last_image_at_any_batch_size(exported, vitc, row, batch):
    rows = evaluated(vitc, exported, "--formats", "safetensors,onnx,pt2", f"data.eval_batch_size={batch}")
    assert [each.pop("format") for each in rows] == ["safetensors", "onnx", "pt2"]
    keys = ("macs", "params", "top1", "top5")
    assert rows == [{"name": "half"} | {key: row[key] for key in keys}] * 3


@pytest.mark.slow
def test_two_processes_evaluate_what_one_does(exported, vitc, row):
    formats = ("--formats", "onnx,safetensors", "--json")
    first, second = vitc.run_ranks(2, "evaluate", str(exported), *formats, "data.eval_batch_size=7")
    assert (first.code, second.code) == (0, 0), first.error
    assert [(each["top1"], each["images"]) for each in json.loads(first.out)] == [(row["top1"], 359)] * 2
    assert second.out == ""


# Widths and variants


def test_one_network_with_all_widths(finished, vitc):
    done = vitc("export", str(finished), "--out", "all", "--variant", "elastic")
    assert (done.code, done.error) == (0, "")
    rows = json.loads((finished / "result.json").read_text())["rows"]
    keys = ("width", "macs", "params", "top1", "top5")
    assert evaluated(vitc, "all") == [{"name": "all"} | {key: each[key] for key in keys} for each in rows]
    assert [each["width"] for each in evaluated(vitc, "all", "--width", "0.5")] == [0.5]
    vitc("export", str(finished), "--out", "some", "--variant", "elastic", "--width", ".25,.75")
    assert lightning_vitc.load(vitc.place / "some").widths == [0.25, 0.75]


def test_several_widths_are_folders(finished, vitc, row):
    done = vitc("export", str(finished), "--out", "widths", "--width", ".25,.5")
    assert (done.code, done.error) == (0, "")
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["widths/width_0.25", "widths/width_0.50"]
    assert evaluated(vitc, "widths/width_0.50")[0]["top1"] == row["top1"]


def test_the_dense_network_is_exported_by_its_name(finished, vitc):
    done = vitc("export", str(finished), "--out", "dense", "--variant", "dense")
    assert (done.code, done.error) == (0, "")
    dense = json.loads((finished / "result.json").read_text())["dense"]
    assert evaluated(vitc, "dense")[0]["top1"] == dense["top1"]
    facts = json.loads((vitc.place / "dense" / "arch.json").read_text())
    assert (facts["method"], facts["budget"]) == ("dense", {})


@pytest.mark.slow
def test_a_run_in_half_precision_is_exported_and_all_numbers_are_the_same(vitc, finished_run, tiny):
    run = finished_run(vitc.place, "scala_digits", *tiny, "trainer.precision=bf16-true", "trainer.max_epochs=1")
    done = vitc("export", str(run), "--out", "out", "--width", ".5", "--formats", "onnx")
    assert (done.code, done.error) == (0, "")
    row = next(row for row in json.loads((run / "result.json").read_text())["rows"] if row["width"] == 0.5)
    for each in evaluated(vitc, "out", "--formats", "safetensors,onnx"):
        assert (each["top1"], each["top5"]) == (row["top1"], row["top5"])


REFUSALS = [
    (["export", "RUN", "--formats", "onyx"],
     "--formats: 'onyx' is not one of safetensors, onnx, pt2, int8, timm; did you mean 'onnx'?"),
    (["export", "RUN", "--variant", "elastic", "--formats", "onnx"],
     "--formats: onnx holds one width; name it by --width instead of --variant elastic"),
    (["export", "RUN", "--variant", "plastic"],
     "--variant: RUN has no plastic; it has elastic, dense, width_0.25, width_0.50, width_0.75, width_1.00"),
    (["export", "RUN", "--variant", "dense", "--width", ".5"], "--width: dense is one network; leave the option out"),
    (["export", "RUN", "--variant", "elastic", "--width", ".3"], "width: .3 is not one of 0.25, 0.5, 0.75, 1"),
    (["export", "RUN", "--width", ".5,.3"], "--width: RUN has no width .3; it has 0.25, 0.5, 0.75, 1"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_refusals_leave_nothing(finished, vitc, arguments, message):
    (vitc.place / "RUN").symlink_to(finished)
    done = vitc(*arguments, "--out", "x")
    assert (done.code, done.out, done.error) == (2, "", f"error: {message}\n")
    assert not (vitc.place / "x").exists()


def test_formats_of_a_run_or_of_what_was_not_written(finished, exported, vitc, tmp_path):
    done = vitc("evaluate", str(finished), "--formats", "onnx")
    message = f"--formats: {finished} is no exported directory; leave the option out"
    assert (done.code, done.error) == (2, f"error: {message}\n")
    vitc("export", str(finished), "--out", "plain")
    done = vitc("evaluate", "plain", "--formats", "onnx")
    assert (done.code, done.error) == (
        2, "error: plain/model.onnx: no such file; plain was exported as safetensors\n",
    )  # fmt: skip


def test_a_format_that_computes_something_else_is_not_exported(finished, tmp_path, monkeypatch):
    from lightning_vitc.exporting import exporting

    class Other(exporting.Pt2Network):
        def forward(self, images):
            return super().forward(images) + 1e-3

    monkeypatch.setattr(exporting, "Pt2Network", Other)
    with pytest.raises(RunFailure, match=r"^pt2: a logit differs from PyTorch's by 1\.0e-03$"):
        exporting.export(str(finished), str(tmp_path / "x"), formats=["pt2"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_export_leaves_the_old_directory_whole(exported, finished, vitc):
    """Killed while it writes; the next export removes what is left of it."""
    shutil.copytree(exported, vitc.place / "model")
    arguments = ["export", str(finished), "--out", "model", "--formats", "onnx", "--logits-only"]
    assert vitc.kill_when(lambda: list(vitc.place.glob(".model.*.tmp/*")), *arguments)
    assert list(vitc.place.glob(".model.*.tmp"))
    assert lightning_vitc.load(vitc.place / "model").embed_dim == lightning_vitc.load(exported).embed_dim
    assert json.loads((vitc.place / "model" / "arch.json").read_text())["budget"] == {"width": 0.5}
    assert vitc(*arguments).code == 0
    assert json.loads((vitc.place / "model" / "arch.json").read_text())["budget"] == {"width": 1.0}
    assert not list(vitc.place.glob(".model.*.tmp"))
