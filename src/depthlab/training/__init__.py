"""Training: the LightningModule, the plan of steps, callbacks and loggers."""
