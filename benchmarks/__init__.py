"""What the figures of docs/benchmarks.md are printed by; each module is a command."""
