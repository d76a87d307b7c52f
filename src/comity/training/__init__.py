"""Setup, plan, task gradients, balancers, AdamW and the training loop."""
