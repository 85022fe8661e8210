import sys

from tests.fuzz.engine import main

sys.exit(main())
