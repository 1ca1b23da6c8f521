"""Programs that measure; each writes what it found to benchmarks/results/."""
