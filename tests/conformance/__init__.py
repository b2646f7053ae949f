# SPDX-License-Identifier: Apache-2.0
"""Runpod's own packages against the local platform: nothing of ours runs in their environments."""
