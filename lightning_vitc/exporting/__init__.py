"""What a finished run is exported to, and what can be opened of it: ONNX, pt2, safetensors."""
