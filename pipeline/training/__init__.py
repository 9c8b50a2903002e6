"""Training on Ray Train, fed by CPU tasks of the whole cluster."""
