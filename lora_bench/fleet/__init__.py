"""Many adapters of one base model: scored side by side with the base loaded once."""
