"""`python -m retcon.tui` is `retcon`: how the app runs a command without having to find the script."""

from .start import main

main()
