"""One training: the LightningModule that all methods share, its losses, optimizer and teacher."""
