"""Training of the locator that a checkpoint holds beside the model: a phase of its own, after the model's, on whole frames."""
