"""Which implementation of an op runs: what was asked for, which ops have a fused twin, and how a twin is proved."""
