"""Whether a pack changes scores in bfloat16, where it adds in another order: the same runs packed and each by itself.

    python benchmarks/packed_scores.py            ten minutes on two CPU cores
    python benchmarks/packed_scores.py --quick    a minute: shows that it runs

The runs are LoRA on MiniLM-L6 in the RoBERTa class for film reviews, with twenty seeds, dropout on, in bfloat16 by autocast.
In float32 packed and isolated losses agree to 1e-5, as tests/pack holds them to; in bfloat16 activations have the same types,
but the products of a pack have other shapes, and their last bits differ. The question is then what a score is worth: the paired
differences are held against the noise of seeds. A CPU would not pack so large a model, since it gains nothing there; the limit
is lifted for this.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

SUITE = """\
suite: pairs
tasks: [movie_reviews]
models: [minilm-l6-roberta]
methods: [{{method: lora, learning_rate: 3e-3}}]
seeds: {seeds}
budget: {{train_examples: {examples}}}
training: {{batch_size: 16, max_length: 48, masks: keyed, precision: bfloat16}}
"""


def scores(suite: Path, runs: Path, *, pack: bool) -> tuple[dict[int, float], int]:
    """The accuracy of each seed, and how many runs had company."""
    from lora_bench.execute.run_suite import run_suite

    records = run_suite(suite, runs=runs, workers=0, pack=pack).records
    assert all(record.status == "ok" for record in records), [record.reason for record in records]
    packed = sum(bool(record.packed_with) for record in records)
    return {record.spec.seed: record.scores["accuracy"] for record in records}, packed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=480)
    parser.add_argument("--members", type=int, default=5, help="of a pack")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.quick:
        given.runs, given.examples, given.members = 2, 32, 2
    from lora_bench.execute import run_suite as execute

    execute.most_members = lambda *unused, **options: given.members
    with tempfile.TemporaryDirectory() as name:
        suite = Path(name) / "pairs.yaml"
        suite.write_text(SUITE.format(seeds=list(range(given.runs)), examples=given.examples), encoding="utf-8")
        together, company = scores(suite, Path(name) / "packed", pack=True)
        alone, _ = scores(suite, Path(name) / "alone", pack=False)
    differences = [together[seed] - alone[seed] for seed in alone]
    spread, apart = statistics.stdev(alone.values()), statistics.stdev(differences)
    error = apart / len(differences) ** 0.5
    print(f"{len(alone)} runs in bfloat16, {company} of them packed; accuracy on the test split\n")
    print("| | mean | standard deviation |\n| :-- | --: | --: |")
    print(f"| alone | {statistics.mean(alone.values()):.4f} | {spread:.4f} over seeds |")
    print(
        f"| packed | {statistics.mean(together.values()):.4f} | {statistics.stdev(together.values()):.4f} over seeds |"
    )
    print(
        f"| packed less alone, paired | {statistics.mean(differences):+.4f} (standard error {error:.4f}) | {apart:.4f} |"
    )


if __name__ == "__main__":
    main()
