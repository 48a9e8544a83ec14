"""timm's Eva class: Vision Transformers with rotary positions (DINOv3, EVA-02, rope ViTs, Perception Encoder)."""
