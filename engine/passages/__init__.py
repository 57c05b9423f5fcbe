"""A passage of text into a model: its facts, its questions, the proof of what stuck, and what else would answer."""
