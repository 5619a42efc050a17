"""Training: models, the loop that fits them, callbacks, checkpoints, and files to keep them in."""
