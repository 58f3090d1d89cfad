"""The command line. Command files import nothing heavy at the top: what they need comes when they run."""
