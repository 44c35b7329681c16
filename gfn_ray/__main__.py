"""python -m gfn_ray sample|predict: a trained adapter from the shell."""

import sys

from gfn_ray.cli import main
from gfn_ray.serving.command import command

if __name__ == "__main__":
    sys.exit(main(lambda: command(sys.argv[1:])))
