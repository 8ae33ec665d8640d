"""`BenchmarkCallback`: the record of any script on transformers.Trainer."""
