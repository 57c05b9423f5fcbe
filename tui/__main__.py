"""`python -m retcon.tui` runs `retcon`. The app starts commands in this way, without looking for the script."""

from .start import main

main()
