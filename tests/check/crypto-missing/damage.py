# SPDX-License-Identifier: MIT
"""An encrypted image that doesn't say where its LUKS header is."""
FOUND = {"crypto-missing": 1}
LEFT = {"crypto-missing": 1}
WHY = "without the header the data are noise"


def damage(p):
    p.built.patch(32, (2).to_bytes(4, "big"))
