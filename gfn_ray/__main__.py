"""python -m gfn_ray: the command gfn-ray."""

import sys

from gfn_ray.shell import main

if __name__ == "__main__":
    sys.exit(main())
