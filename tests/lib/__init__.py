# SPDX-License-Identifier: MIT
"""Helpers of the Python tests. Nothing here knows the library's code: only the tool's face."""
