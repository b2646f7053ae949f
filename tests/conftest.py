# SPDX-License-Identifier: Apache-2.0
"""Generated examples are the same in every run, and take as long as a busy machine needs."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("flash-plugins", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("flash-plugins")
