"""A checkpoint as a network in torch: the transformers model and what its task makes of it."""
