"""The graph engine: steps and chunks that are captured once and replayed, and the proofs that a replay is right."""
