"""UniFormer: convolutions in the first two stages, attention in the last two."""
