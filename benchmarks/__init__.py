# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of flash-plugins beside its peers: `python -m benchmarks`. See README.md here."""
