"""Third-party loaders, each tuned as its documentation advises: functions from `RivalFiles` to `RowLoader`.

Files in reading order:

worker_processes       PyTorch's DataLoader, which most rivals build on
image                  reads, decodes and resizes one image
optional               imports a rival's package when its row is made
albumentations_loader  Pillow and Albumentations
turbojpeg_loader       scaled decoding by libjpeg-turbo
torchvision_loader     torchvision in worker processes, and on the GPU
spdl_loader            SPDL's threads
webdataset_loader      the webdataset package
"""
