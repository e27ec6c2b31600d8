"""Print how long a sharded training takes on other devices, simulated from the costs that one has measured.

    python experiments/simulate.py costs=runs/<folder>/shards/0/costs.json devices=[1,2,4,8]

The option --help lists the settings.
"""

import sys

from partrain.cli.start import start_command

if __name__ == "__main__":
    start_command("simulate", sys.argv[1:])
