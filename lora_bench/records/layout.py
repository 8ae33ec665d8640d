"""The names of the files in a run's folder, and of those that hold all records of a suite."""

RECORD = "record.json"
PREDICTIONS = "predictions.json"
COMPLETIONS = "completions.json"
PROBABILITIES = "probabilities.json"

RUNS_FILE = "runs.json"
PROBES_FILE = "probes.json"
ANSWERS_FILE = "answers.jsonl.xz"
