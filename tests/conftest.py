"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How fast a machine makes examples says nothing about the code: no timing passes or fails a test here.
settings.register_profile("quern", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quern")
