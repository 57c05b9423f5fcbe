"""Passages: extract facts and questions from a text, check them, prove their edits, and answer by other baselines."""
