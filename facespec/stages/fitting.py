"""What training and fine-tuning share: fit, resume, and write checkpoint and history."""

from __future__ import annotations
