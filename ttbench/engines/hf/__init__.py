"""Any causal model of transformers as an engine."""
