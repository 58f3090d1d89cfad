"""Three ways to run a model with early exits: branches in one file, stages with a runner, masked compute."""
