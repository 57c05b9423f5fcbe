"""One file per model: the settings that the field, or retcon's own measurements, found for it."""
