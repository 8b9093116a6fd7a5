"""Plan, run, store and judge sweeps."""
