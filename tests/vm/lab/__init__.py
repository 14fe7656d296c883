# SPDX-License-Identifier: MIT
"""The lab: real kernels, real guests, no installation. See ../README.md."""
