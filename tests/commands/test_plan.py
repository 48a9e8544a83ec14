"""`vitc plan`: what it prints, and how it ends where the budget is out of reach."""

import json

import pytest

FEW = ("model.depth=4", "model.embed_dim=24", "model.num_heads=2", "model.patch_size=4")


def test_of_two_limits_the_one_that_is_out_of_reach_is_named(vitc):
    budget = ("budget.macs=1%", "budget.static=70%")
    done = vitc("plan", "usdc_digits", *FEW, *budget, "--json")
    document = json.loads(done.out)
    least, most = (document["reachable"][f"{end}_macs"] for end in ("min", "max"))
    target = document["dense"]["macs"] // 100
    assert (done.code, document["satisfiable"]) == (2, False)
    assert document["within_reach"] == {"macs": False, "static": True}
    line = f"budget.macs: 1% is {target:,}, out of reach; this method reaches {least:,} to {most:,}"
    assert done.error == f"error: {line}\n"
    done = vitc("plan", "usdc_digits", *FEW, *budget)
    assert (done.code, done.error) == (2, f"error: {line}\n")
    verdicts = [text for text in done.out.splitlines() if "satisfiable: " in text]
    assert [text.rpartition(" ")[2] for text in verdicts] == ["no", "yes"]
    assert ["(static)" in text for text in verdicts] == [False, True]


@pytest.mark.parametrize(
    ("experiment", "line"),
    [
        ("uvc_digits", "budget.macs: 1% is "),
        ("dcvit_digits", "budget.macs: {target:,} (1.00 %) needs "),
        ("practise_digits", "budget.macs: {target:,} needs "),
    ],
)
def test_out_of_reach_is_the_users_mistake(vitc, experiment, line):
    done = vitc("plan", experiment, *FEW, "budget.macs=1%", "--json")
    document = json.loads(done.out)
    assert (done.code, document["satisfiable"]) == (2, False)
    assert done.error.startswith(f"error: {line.format(target=document['target']['macs'])}")
    assert f"{document['reachable']['min_macs']:,}" in done.error
    assert done.error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "plan"),
    [
        (["dcvit_swin_b"], {"blocks": 4, "macs": 12_686_118_912, "params": 75_147_872}),
        (["dcvit_swin_b", "method.unit=attention"],
         {"blocks": 5, "hidden": 613, "macs": 12_685_918_208, "params": 75_142_089}),
        (["practise_resnet34", "budget.drop_blocks=3"],
         {"blocks": 3, "macs": 2_970_128_384, "least_params": 11_175_720, "most_params": 21_354_280}),
        (["dcvit_mobilenetv2", "budget.drop_blocks=null", "budget.macs=91%"], {"least_blocks": 2, "most_blocks": 3}),
    ],
)  # fmt: skip
def test_whole_blocks(vitc, arguments, plan):
    """Exactly, and what depends on the blocks that training chooses by its two ends."""
    done = vitc("plan", *arguments, "--json")
    assert (done.code, done.error) == (0, "")
    assert json.loads(done.out)["plan"] == plan


@pytest.mark.parametrize(
    ("experiment", "count", "half"),
    [("scala_uniformer_s", 13, 1_121_081_216), ("scala_uniformer_xs", 7, 512_003_584),
     ("scala_mobilenetv2", 17, 97_131_840), ("scala_swin_t", 13, 1_161_481_728)],
)  # fmt: skip
def test_widths_of_an_imagenet_recipe(vitc, experiment, count, half):
    """Of networks of their real size, which are counted and not built."""
    done = vitc("plan", experiment, "--json")
    assert (done.code, done.error) == (0, "")
    macs = {network["name"]: network["macs"] for network in json.loads(done.out)["plan"]["networks"]}
    assert (len(macs), macs["width_0.50"]) == (count, half)


def test_a_budget_within_a_block_can_be_met(vitc):
    """By dropping the whole block, as the plan says."""
    done = vitc("plan", "practise_digits", *FEW, "budget.macs=99.9%", "--json")
    document = json.loads(done.out)
    assert (done.code, done.error) == (0, "")
    assert document["satisfiable"]
    assert document["plan"]["macs"] < document["target"]["macs"]


def test_a_comparison_of_small_networks_tells_them_apart(vitc):
    """In one unit for all of them."""
    small = ("model.img_size=32", "model.patch_size=8", "model.embed_dim=48", "model.num_heads=3")
    done = vitc("plan", "--compare", "vit_tiny_patch16_224", *small, "budget.macs=50%")
    assert done.code == 0
    rows = [line.split("│")[1:] for line in done.out.splitlines() if line.startswith("│")]
    counts = {row[0].strip(): row[7].strip() for row in rows if row[0].strip()}
    assert counts["dense"] == "6.169 M"
    assert counts["uvc"] == "3.084 M"
    assert counts["scala"] == "3.029 M"
