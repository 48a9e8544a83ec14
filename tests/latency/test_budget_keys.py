"""A budget of latency as users write it, and what it may not be set beside."""

import pytest

from lightning_vitc.budget.target import as_number, latency_amount, parse_amount, shown
from lightning_vitc.config import load_experiment
from lightning_vitc.errors import UserError

DENSE = 20_000_000


@pytest.mark.parametrize(("text", "nanoseconds"), [
    ("60%", 12_000_000), (7, 7_000_000), (7.25, 7_250_000), ("7.25", 7_250_000), ("12.5 %", 2_500_000), (5e-4, 500),
])  # fmt: skip
def test_amounts(text, nanoseconds):
    assert latency_amount(text, DENSE) == nanoseconds


@pytest.mark.parametrize(("text", "problem"), [
    ("7ms", "is not a latency"), ("0%", "is not a latency"), ("-1", "is not a latency"), ("fast", "is not a latency"),
    ("101%", "is more than the dense model's 20 ms"), (20.5, "is more than the dense model's 20 ms"),
])  # fmt: skip
def test_what_is_none(text, problem):
    with pytest.raises(UserError, match=f"^budget.latency_ms: .*{problem}"):
        latency_amount(text, DENSE)


def test_for_people_and_for_json():
    assert (shown("latency_ms", 12_345_678), shown("macs", 12_345_678)) == ("12.35 ms", "12,345,678")
    assert (as_number("latency_ms", 12_345_678), as_number("macs", 12_345_678)) == (12.3457, 12_345_678)


@pytest.mark.parametrize("experiment", [
    "uvc_digits", "usdc_digits", "magnitude_digits", "dcvit_digits", "practise_digits", "scala_digits",
])  # fmt: skip
def test_it_takes_the_place_of_the_experiments_own_budget(experiment):
    keys = ["budget.latency_ms=5", "budget.device=cuda"]
    budget = load_experiment(experiment, keys).budget
    assert (budget.latency_ms, budget.macs, budget.drop_blocks, budget.device) == (5, None, None, "cuda")


def test_beside_a_latency_the_resident_model_has_milliseconds_too():
    assert load_experiment("usdc_digits", ["budget.latency_ms=5", "budget.static=7.5"]).budget.static == 7.5
    assert load_experiment("usdc_digits", ["budget.latency_ms=5", "budget.static=50"]).budget.static == 50


@pytest.mark.parametrize(("experiment", "overrides", "message"), [
    ("uvc_digits", ["budget.latency_ms=5", "budget.macs=50%"],
     "budget.latency_ms: set beside budget.macs; give one of them"),
    ("uvc_digits", ["budget.latency_ms=5", "budget.params=1M"],
     "budget.latency_ms: set beside budget.params; give one of them"),
    ("dcvit_digits", ["budget.latency_ms=5", "budget.drop_blocks=1"],
     "budget.latency_ms: set beside budget.drop_blocks; give one of them"),
    ("uvc_digits", ["budget.device=cuda"], "budget.device: has no effect without budget.latency_ms; leave it out"),
    ("scala_digits", ["budget.batch_size=2"],
     "budget.batch_size: has no effect without budget.latency_ms; leave it out"),
    ("scala_digits", ["budget.macs=50%"],
     "budget.macs: the method 'scala' does not know it; it takes latency_ms, device, batch_size"),
    ("dense_digits", ["budget.latency_ms=5"], "budget.latency_ms: the method 'dense' takes no budget; leave it out"),
    ("usdc_digits", ["budget.latency_ms=5", "budget.batch_size=2"],
     "budget.batch_size: the expected latency of a network that skips by the image is that of batch size 1; "
     "leave it out, or set method.dynamic=false"),
    ("uvc_digits", ["budget.macs=0.5"], "budget.macs: 0.5 is no amount; write 50%"),
    ("magnitude_digits", ["budget.params=1.0"], "budget.params: 1 is no amount; write 100%"),
    ("uvc_digits", ["budget.macs=2.5e9"],
     "budget.macs: 2.5e+09 is no amount; write a share such as 50%, or a number such as 2.3G"),
    ("magnitude_digits", ["budget.macs=50"], "budget.macs: 50 MACs are no network; for a share write 50%"),
    ("uvc_digits", ["budget.params='100'"], "budget.params: 100 parameters are no network; for a share write 100%"),
    ("usdc_digits", ["budget.static=0.7"], "budget.static: 0.7 is no amount; write 70%"),
    ("uvc_digits", ["budget.latency_ms=0"], "budget.latency_ms: 0 is out of range; it must be > 0"),
    ("uvc_digits", ["budget.latency_ms=5", "budget.device=gpu"],
     "budget.device: 'gpu' is not one of cpu, cuda; did you mean 'cpu'?"),
])  # fmt: skip
def test_mistakes_are_one_line(experiment, overrides, message):
    with pytest.raises(UserError) as raised:
        load_experiment(experiment, overrides)
    assert str(raised.value) == message


@pytest.mark.parametrize(("text", "amount"), [
    ("1.5K", 1500), ("2M", 2 * 10**6), ("2.3G", 2_300_000_000), ("4T", 4 * 10**12), ("33%", 33), (7, 7),
])  # fmt: skip
def test_amounts_of_macs(text, amount):
    """Shares of 101 rounded down."""
    assert parse_amount(text, 101, "budget.macs") == amount
