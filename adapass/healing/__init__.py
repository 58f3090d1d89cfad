"""Recovery of a rewritten model by distillation from the original, without labels.

    heal(original, rewritten, fit_samples, seconds=300)     adapass.healing.heal: what a driver calls
    distill(original, pruned, samples, settings=...)        adapass.healing.distill: everything settable
    prune_and_heal(original, prune, samples, steps=4)       adapass.healing.schedule: a little at a time

torch is an extra (``pip install adapass[torch]``): the modules of this package need it when they are
imported, this one and ``adapass.healing.settings`` do not.
"""

from __future__ import annotations
