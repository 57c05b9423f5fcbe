"""Names of the parts of a decoder block. Imports no torch, so that jobs and the app can use them."""

from typing import Literal

# attn: the attention. mlp: the MLP. matrix: the projection that an edit rewrites.
Role = Literal["attn", "mlp", "matrix"]
