"""`python -m cmsched` is the command `cmsched`."""

from .demo.cli import main

main()
