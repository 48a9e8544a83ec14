"""BEiT and BEiTv2: Vision Transformers whose attention has a learned bias for every distance of two patches."""
