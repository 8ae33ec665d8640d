"""One process of a probe: a short isolated run with fixed shapes that measures speed and memory, and no score.

    suite → probe_plan: a ProbePlan of ProbeJobs → probe_execute: one fresh process each → ProbeRecord → report

`process.py` has the whole of it on one page; `lora_bench.records.probe_record` has the types, without torch.
"""
