"""One preset per model: settings from published files or from retcon's own measurements, with their source."""
