# SPDX-License-Identifier: Apache-2.0
"""Features of the package that come through its own plugin door: platform choice, notice, progress."""
