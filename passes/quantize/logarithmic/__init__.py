"""Few codes for activations whose numbers range over orders of magnitude."""
