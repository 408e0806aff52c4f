"""What others use instead of this project's loaders, each as its own documentation tunes it; all are called with `RivalFiles`.

`albumentations_loader`, `turbojpeg_loader`, `torchvision_loader`, `TorchvisionCuda`, `spdl_scaled`, `spdl_antialiased` and
`webdataset_loader` live in the module of their name. The optional packages are imported when a row is made.
"""
