"""What is measured once is remembered, by all that it depends on, and a run goes by its own record."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError
from lightning_vitc.latency import cache, measuring, place
from lightning_vitc.latency.by_image import share_by_image
from lightning_vitc.latency.measuring import FEWEST, MOST, in_turns, shares
from lightning_vitc.latency.meter import Meter
from lightning_vitc.latency.place import Place
from lightning_vitc.latency.table import points_of
from lightning_vitc.networks.blocks import attention
from lightning_vitc.networks.families.plain.shape import vit, vit_block

BLOCK = vit_block(attention(8, (8,) * 4), 64)
SPEC = vit("small", (16, 16), (8, 8), 3, 10, 32, (BLOCK,) * 3, 0.35)
HALF, OTHER = (SPEC.with_stage(*SPEC.blocks[:depth]) for depth in (1, 2))


def files() -> list[Path]:
    return sorted(cache.folder().glob("*"))


# Remembering


def test_the_second_time_nothing_is_measured(clock, capsys):
    meter = Meter(SPEC, Place())
    assert meter.known(points_of(SPEC)) is None
    first = meter.table()
    asked = clock.asked
    said = capsys.readouterr()
    assert said.out == ""
    assert f"kept in {files()[0]}" in said.err
    clock.slowness = 7
    table = meter.table()
    assert table.dense == first.dense
    assert table.stacks[0].attn.tolist() == first.stacks[0].attn.tolist()
    assert clock.asked == asked
    assert not [path for path in files() if path.name.startswith(".")]


@pytest.mark.parametrize("other", [
    Meter(SPEC, Place(batch_size=2)), Meter(SPEC, Place(threads=2)),
    Meter(replace(SPEC, img_size=(24, 24)), Place()), Meter(SPEC.with_stage(*(SPEC.blocks[:2])), Place()),
])  # fmt: skip
def test_another_place_or_shape_is_measured_anew(clock, other):
    Meter(SPEC, Place()).table()
    assert other.known(points_of(other.dense)) is None
    other.table()
    assert len(files()) == 2


@pytest.mark.parametrize("what", ["torch", "device_name"])
def test_another_torch_or_processor_is_measured_anew(clock, monkeypatch, what):
    Meter(SPEC, Place()).table()
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "99")
    else:
        monkeypatch.setattr(place, "_cpu_name", lambda: "another")
    assert Meter(SPEC, Place()).known(points_of(SPEC)) is None


def test_what_is_added_later_is_measured_alone_on_the_scale_of_the_first(clock):
    meter = Meter(SPEC, Place())
    before = meter.table(gates=["relu"])
    asked, clock.slowness = clock.asked, 3
    found = meter.remembered({"half": HALF})["nanoseconds"]
    assert clock.asked == asked + 2
    assert found["half"] == pytest.approx(1.5e6 * clock.milliseconds(HALF), rel=0.001)
    after = meter.table(gates=["relu", "gelu"])
    assert clock.asked == asked + 4
    relu = before.stacks[0].gates["relu"]
    assert after.stacks[0].gates == {"relu": relu, "gelu": pytest.approx(relu, rel=0.001)}
    assert len(files()) == 1


def test_the_name_of_the_model_does_not_matter_to_its_speed(clock):
    assert cache.digest(SPEC) == cache.digest(replace(SPEC, name="other")) != cache.digest(HALF)


@pytest.mark.parametrize("damage", [
    "", "{", "[]", '{"key": {}, "nanoseconds": {}}', '{"key": 3, "nanoseconds": {}}', "negative", "another key",
])  # fmt: skip
def test_a_damaged_or_foreign_file_is_measured_again(clock, damage):
    meter = Meter(SPEC, Place())
    whole = meter.table()
    [path] = files()
    document = json.loads(path.read_text())
    if damage == "negative":
        damage = json.dumps(document | {"nanoseconds": {"dense": -1}})
    elif damage == "another key":
        damage = json.dumps(document | {"key": document["key"] | {"threads": 9}})
    path.write_text(damage)
    assert meter.known(points_of(SPEC)) is None
    assert meter.table().dense == whole.dense
    assert json.loads(path.read_text()) == document


def test_what_another_process_measures_meanwhile_is_kept(clock, monkeypatch):
    one, other, measured = Meter(SPEC, Place()), Meter(SPEC, Place()), Meter.measured

    def both(self, specs):
        monkeypatch.setattr(Meter, "measured", measured)
        other.remembered({"other": OTHER})
        return measured(self, specs)

    monkeypatch.setattr(Meter, "measured", both)
    one.remembered({"half": HALF})
    asked = clock.asked
    one.remembered({"half": HALF, "other": OTHER})
    assert clock.asked == asked


def test_a_folder_that_cannot_be_written_is_no_obstacle(clock, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Meter(SPEC, Place()).table().dense > 0
    assert "is not writable" in capsys.readouterr().err


def test_the_record_of_a_run_counts_wherever_it_is_continued(clock, tmp_path, monkeypatch):
    document = Meter(SPEC, Place()).remembered({"half": HALF})
    (tmp_path / "latency.json").write_text(json.dumps(document))
    clock.slowness = 5
    monkeypatch.setattr(place, "_cpu_name", lambda: "another")
    run = Meter(SPEC, Place(threads=4), tmp_path / "latency.json")
    assert run.remembered({"half": HALF})["nanoseconds"] == document["nanoseconds"]
    assert run.remembered({"other": HALF})["nanoseconds"]["other"] == pytest.approx(
        5 * document["nanoseconds"]["half"], rel=0.01
    )


# Measuring


def test_a_measurement_is_a_share_of_the_dense_network_in_the_same_rounds(clock):
    meter = Meter(SPEC, Place())
    dense = meter.measured({"half": HALF})["dense"]
    clock.slowness = 10
    share = clock.milliseconds(HALF) / clock.milliseconds(SPEC)
    assert meter.now(HALF, dense) == pytest.approx(dense * share, rel=0.001)


def test_the_dense_latency_is_the_median_of_all_rounds(monkeypatch):
    """Of 1, 2, 9 beside one network and 5, 6, 7 beside another, which take half: 5.5 ms."""
    rounds = iter([[1.0, 2.0, 9.0], [5.0, 6.0, 7.0]])

    def in_turns(specs, _):
        dense = next(rounds)
        return {name: dense if name == "dense" else [time / 2 for time in dense] for name in specs}

    monkeypatch.setattr("lightning_vitc.latency.meter.TOGETHER", 1)
    monkeypatch.setattr(measuring, "in_turns", in_turns)
    found = Meter(SPEC, Place()).measured({"half": HALF, "again": HALF})
    assert found == {"dense": 5_500_000, "half": 2_750_000, "again": 2_750_000}


def test_shares_are_of_the_same_round():
    found = shares({"dense": [1.0, 10.0, 2.0], "half": [0.5, 5.0, 9.0]})
    assert found == {"dense": 1.0, "half": 0.5}


@pytest.mark.parametrize(("seconds", "count"), [(0.001, MOST), (1.0, 15), (100.0, FEWEST)])
def test_how_many_rounds_there_are(monkeypatch, seconds, count):
    """As many as take 15 seconds, and 9 to 31 of them; the first one says how long it takes."""
    asked = []
    monkeypatch.setattr(measuring, "interleaved", lambda calls, device, repeats, warmup: asked.append(repeats) or {
        name: [1e3 * seconds] for name in calls})  # fmt: skip
    in_turns({"bare": SPEC.with_stage()}, Place())
    assert asked == [1, count]


def test_networks_take_turns_and_the_threads_come_back():
    before = torch.get_num_threads()
    state = torch.random.get_rng_state()
    gated = SPEC.with_stage(vit_block(BLOCK.branches[0], 64).with_gates(("relu", "relu_bn")))
    rounds = in_turns({"dense": SPEC, "gated": gated, "bare": SPEC.with_stage()}, Place("cpu", 2, before + 1))
    counts = {len(times) for times in rounds.values()}
    assert len(counts) == 1
    assert counts <= set(range(FEWEST, MOST + 1))  # fewer on a busy machine
    assert min(map(min, rounds.values())) > 0
    assert torch.get_num_threads() == before
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_image_counts_by_the_median_of_its_rounds(monkeypatch):
    """Of two images 2 and 2 ms, of the dense network 4 and 4."""
    times = {"network": [1.0, 2.0, 9.0], "dense": [4.0, 4.0, 1.0]}
    monkeypatch.setattr("lightning_vitc.latency.by_image.interleaved", lambda *_, **__: times)
    network = torch.nn.Identity()
    assert share_by_image(network, network, torch.zeros(2, 3, 8, 8), Place()) == pytest.approx(0.5)


def test_image_by_image_every_image_is_seen_alone():
    seen = []

    class Counts(torch.nn.Module):
        def forward(self, images):
            seen.append(len(images))

    share = share_by_image(Counts(), Counts(), torch.zeros(3, 1, 2, 2), Place())
    assert set(seen) == {1}
    assert share > 0


# Where


def test_the_place_of_an_experiment():
    keys = ["budget.latency_ms=5", "budget.batch_size=4", "threads=3"]
    assert Place.of(load_experiment("uvc_digits", keys)) == Place("cpu", 4, 3)


def test_a_gpu_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^budget.device: cuda: torch finds no GPU here; set budget.device=cpu$"):
        Place.of(load_experiment("uvc_digits", ["budget.latency_ms=5", "budget.device=cuda"]))
