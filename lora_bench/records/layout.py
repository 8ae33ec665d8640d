"""The names of the files in a run's folder."""

RECORD = "record.json"
PREDICTIONS = "predictions.json"
COMPLETIONS = "completions.json"
PROBABILITIES = "probabilities.json"
