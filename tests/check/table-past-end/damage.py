# SPDX-License-Identifier: MIT
"""The L1 table past the end of the file: nothing tells where anything is."""
FOUND = {"leak": 9, "table-past-end": 1}
LEFT = {"leak": 9, "table-past-end": 1}
WHY = "the L1 table is lost, and a file that was cut off may come back"


def damage(p):
    p.word(40, 1 << 40)
