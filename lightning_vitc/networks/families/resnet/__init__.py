"""ResNets of basic blocks: 18 and 34 layers."""
