"""Export an edited model in formats that other tools load: a checkpoint, a PEFT adapter, or the deltas."""
