"""Calibration statistics: what a checkpoint's layers see, and what its parameters matter, on a text."""

from merging.calibration.settings import CalibrationSettings
from merging.calibration.statistics import CalibrationStatistics

__all__ = ["CalibrationSettings", "CalibrationStatistics"]
