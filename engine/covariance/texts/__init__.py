"""Short texts written for retcon: for the demo, for first edits (`--texts shipped`), and for evaluation."""
