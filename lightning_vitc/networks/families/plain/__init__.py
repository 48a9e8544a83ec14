"""Plain Vision Transformers: one stream, every block an attention and an MLP."""
