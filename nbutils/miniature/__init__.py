"""The miniature world: drawn scenes, a simulated cortex with known truth, small trained networks.

It exists so that everything can run in minutes on a laptop, and so that decoders can be checked
against a truth that no measured brain gives. ``write.make`` writes it in NSD's on-disk layout.
"""
