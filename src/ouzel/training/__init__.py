"""Training: one fit loop, losses, negative samplers, checkpoints."""
