"""Early exits: heads at cut points, rules that stop, thresholds that are searched."""
