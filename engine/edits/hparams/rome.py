"""Settings of ROME (Meng et al. 2022) and r-ROME (Gupta et al. 2024)."""

from typing import ClassVar

from pydantic import Field

from .base import Fixed, Hparams, ValueSearchHparams


class RomeHparams(ValueSearchHparams):
    max_requests: ClassVar[int | None] = 1

    mom2_adjustment: bool = Field(
        True, description="Whether u = C^-1 k, else u = k (Meng et al. 2022, eq. 2)."
    )


class RRomeHparams(RomeHparams):
    preset_of: ClassVar[str | None] = "rome"
    saved_under: ClassVar[str | None] = "rome"
    # Fields of EasyEdit's R-ROME, which can also switch to other keys than the paper's.
    fixed: ClassVar[Fixed] = {
        **Hparams.fixed,
        "enable_prompt_keys": (False, "r-rome averages the keys over the contexts on both sides"),
        "enable_random_prefix_keys": (True, "r-rome averages the keys over the contexts on both sides"),
        "original_implementation": (False, "use --method rome for the original implementation"),
    }
