"""`python -m deploy_arm.toolchain`: the tool chain for ARM programs."""

import sys

from deploy_arm.target.toolchain import main
from foundation.command import main_guard

if __name__ == "__main__":
    sys.exit(main_guard(main))
