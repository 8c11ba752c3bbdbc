"""Measures how far honest machines differ when they run one model: what a calibration record is made from."""
