"""The training: backbones, self-distillation methods, data and the one loop that trains them.
Only `classifier` knows Ray."""
