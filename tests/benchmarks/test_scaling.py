"""Scaling on paper: what its tables are reckoned from."""

import scaling
from scaling import Cluster, Figures, few_shot, step, strong, weak

DEIT_B = Figures(
    params=86_000_000, teacher_params=0, flops=1e11, last_backward_flops=7e10, overhead=1.0, operators=700,
    activation_bytes=7e7, recomputed_bytes=8e6, images_per_core=200.0,
)  # fmt: skip


def test_a_step_by_hand():
    """100 images of 1e11 FLOPs on 1e15 FLOPS used by half: 20 ms, behind whose 14 of backward a gradient hides."""
    cluster = Cluster(gpus=1, peak_tflops=1000.0, utilization=0.5, node_gbs=25.0, launch_us=5.0, cores=100)
    alone, two = step(DEIT_B, cluster, 1, 100), step(DEIT_B, cluster, 2, 100)
    assert (round(1e3 * alone.compute, 6), round(1e3 * alone.launches, 6), alone.exposed) == (20.0, 3.5, 0.0)
    assert alone.limit == "compute"
    assert round(1e3 * two.reduction, 2) == 13.76  # 4 bytes x 86 M, half of them twice over 25 GB/s
    assert two.exposed == 0.0


def test_every_table_is_written(monkeypatch):
    monkeypatch.setattr(scaling, "MODELS", {"DeiT-Ti": "deit_tiny_patch16_224"})
    assert few_shot(Cluster()).count("\n| DeiT-Ti | 10 | 3 | 50 | ") == 1
    figures = {("DeiT-B", "dense"): DEIT_B}
    assert weak(figures, Cluster()).count("DeiT-B, dense") == 1
    assert "| DeiT-B, dense | 2 | " in strong(figures, Cluster())
