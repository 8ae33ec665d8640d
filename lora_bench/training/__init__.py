"""One run on transformers.Trainer: preparation, callbacks, checkpoints, scoring."""
