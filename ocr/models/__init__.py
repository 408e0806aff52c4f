"""The network: DBNet and DBNet++.

Files in reading order:

config    the section `model` of the configuration
backbone  any timm model as the feature extractor
strided_depthwise  strided depthwise convolutions whose gradient is fast on a CPU
activations  activations that are in place in inference only
large_kernel  depthwise convolutions by a large kernel, with a small one beside it in training
fpn       the feature pyramid, with adaptive scale fusion for DBNet++
db_head   the head, its two maps, and the differentiable step function
dbnet     builds the network from these parts
stages    the depth of the backbone's layers, and freezing
batch_norms  which batch norms keep their statistics in training
inference  the network without what only training needs
"""
