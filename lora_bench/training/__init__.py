"""One run on transformers.Trainer: pipeline, callbacks, checkpoints, exercises, scoring."""
