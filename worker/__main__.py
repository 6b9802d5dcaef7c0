"""`python -m worker`: one worker, as the environment sets it."""

import sys

from worker.app import main

sys.exit(main())
