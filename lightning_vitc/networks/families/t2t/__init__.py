"""T2T-ViT: tokens from overlapping patches, by two small attentions without softmax, then plain blocks."""
