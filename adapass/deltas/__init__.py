"""Fine-tunes of one base model, stored as what they change: sparse ternary deltas, or exact ones."""
