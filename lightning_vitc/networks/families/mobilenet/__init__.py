"""MobileNetV2: inverted residuals of depthwise convolutions."""
