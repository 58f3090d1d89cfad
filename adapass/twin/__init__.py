"""The FX twin: an ONNX graph as a differentiable ``torch.fx.GraphModule``, and its weights written back.

    twin = build_twin(model)                       adapass.twin.build
    twin.run(feeds)                                the numbers of ONNX Runtime, up to rounding
    loss(twin.compute(feeds)).backward()           gradients of every stored weight
    update_weights(model, twin)                    adapass.twin.write_back
    fisher(twin, samples)                          adapass.twin.fisher

torch is an extra (``pip install adapass[torch]``): the modules of this package need it when they are
imported, this one does not.
"""

from __future__ import annotations
