"""The main job, end to end: read, clean, search, build, measure, certify, write."""
