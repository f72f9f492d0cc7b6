"""`python -m deploy_arm.fit_costs`: costs of kernels fitted to profiles."""

import sys

from deploy_arm.costs.fit import main
from foundation.command import main_guard

if __name__ == "__main__":
    sys.exit(main_guard(main))
