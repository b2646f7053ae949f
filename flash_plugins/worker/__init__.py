# SPDX-License-Identifier: Apache-2.0
"""What runs on a worker: `python -m flash_plugins.worker`. It never imports the caller's side."""
