#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""make demo TRANSPORT=pmem: runs to its end and prints its table."""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from lab.tap import Tap  # noqa: E402

with Tap() as t:
    p = subprocess.run([os.path.join(HERE, 'demo')], text=True, timeout=300,
                       env=dict(os.environ, TRANSPORT='pmem'), stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    t.ok(p.returncode == 0 and 'the same at all three peers' in p.stdout,
         'the main job over virtio-pmem', p.stdout[-3000:])
