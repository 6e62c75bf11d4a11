"""What a job is given, all of it decided while planning, without torch."""
