"""Settings of the editing methods: one pydantic model per method. Loads no torch."""
