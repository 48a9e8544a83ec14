"""Pictures, drawn without a screen."""
