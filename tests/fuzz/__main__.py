import sys

from fuzz.engine import main

sys.exit(main())
