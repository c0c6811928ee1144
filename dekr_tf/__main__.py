"""`python -m dekr_tf` is `dekr`, where that is not on the path."""

import sys

from dekr_tf.cli.main import main

sys.exit(main())
