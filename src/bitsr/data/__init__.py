"""Pictures, benchmark sets and calibration crops."""
