"""What things cost: honest timing, tables of measured regions, a roofline where no device is at hand."""
