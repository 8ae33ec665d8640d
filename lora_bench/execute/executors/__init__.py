"""Ways to get units of work done: in this process, or by worker processes on this machine.

A unit is a list of jobs; an executor takes units and gives records, in whatever order they are done.
"""

from lora_bench.execute.executors.executor import AnyJob, Done, Event, Executor, Lost

__all__ = ["AnyJob", "Done", "Event", "Executor", "Lost"]
