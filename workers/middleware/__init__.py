"""What happens around every job, one concern a file; `workers.broker` puts them in order."""
