"""The version of lora_bench, and the address of its repository: the one place of the package where each is written."""

__version__ = "0.1.0"

REPOSITORY = "https://HOST/OWNER/lora_bench"
