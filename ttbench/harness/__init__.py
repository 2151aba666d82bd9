"""What stands between tasks and models: checkpoints, tokenizers, corpora, engines, measurement."""
