"""An edited model in the forms that others load: a checkpoint, a PEFT adapter, the deltas alone."""
