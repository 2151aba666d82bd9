"""Published sizes of models, which `random:NAME` fills with random weights."""
