"""`lora-bench probe fleet`: many LoRA adapters on one base model. `measure_part.py` has the whole of it on one page."""
