"""The network as the reference describes it: one file a block, a NumPy form beside it, and its way to ONNX.

Owns the layers and their arithmetic. Must not know data sets, losses, bundles on disk beyond reading weights, MQTT or
the daemon. This package file imports nothing, so that `edge_rul.model.numpy_reference` can be used without torch.
"""
