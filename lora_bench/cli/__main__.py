"""`python -m lora_bench.cli`."""

import sys

from lora_bench.cli.parser import main

sys.exit(main())
