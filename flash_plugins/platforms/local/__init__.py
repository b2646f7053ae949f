# SPDX-License-Identifier: Apache-2.0
"""Runpod's serverless platform on this machine: a loopback server, a real queue, real worker processes.

Import `launch` and `find_running` from `flash_plugins.platforms.local.launch`; importing this package
loads nothing.
"""
