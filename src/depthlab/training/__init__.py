"""The step: loss, error, optimiser, schedule, and what is done at the boundaries between steps."""
