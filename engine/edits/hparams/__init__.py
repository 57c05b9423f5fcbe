"""Settings of the editing methods: one pydantic model per method, in the file named after it. Loads no torch."""
