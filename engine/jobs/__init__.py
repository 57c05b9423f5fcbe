"""Jobs: processes that run the science and write the catalog. Only modules under runs/ import torch."""
